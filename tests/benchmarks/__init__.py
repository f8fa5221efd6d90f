"""`make bench`: how fast, beside a PyTorch reference of the same network on the dense batch.

Numbers are compared before times: a disagreement is an error and prints no time. Reference and
ours run in processes of their own, in turn (A B A B), two threads each, once under
GLIBC_TUNABLES=glibc.malloc.hugetlb=1 and once under the default allocator. Genes have the element
counts and lengths of K562; their bases are drawn at random, since the genome is not at hand.

    occupancy    genes with K562's elements         rounds       paired times and their spread
    networks     the same weights on both sides     children     worker processes, allocators
    reference    what PyTorch runs                  expression   what we run: predict, train, pass
    reading      what we run: mutagenesis, removal  exactness    float64 agreement of training
    memory       peak of one step                   disk         bytes a gene
    sweep        cost by genes, elements, bases     accelerator  the same on a GPU or TPU
    table        the lines, their targets           report       text, JSON, HTML
"""
