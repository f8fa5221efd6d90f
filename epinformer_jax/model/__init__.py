"""The networks: layers, the shared encoder, the two models, and exact packing. Pure JAX; imports
nothing of ours.
"""
