"""What PyTorch runs: the reference of the parity tests, on dense batches, at the published widths.

`layout` is how sequences lie in memory: `published` (channels first, as the original), or
`channels_last`, which convolutions on CPUs like better. Times are of one process with `threads`
threads.
"""

import types

import numpy as np
import torch

from epinformer_jax.data import sequence
from tests import torch_reference
from tests.benchmarks import inputs, networks
from tests.benchmarks.setting import Dense, Prepared, Setting, dense

LAYOUTS = {"published": torch.contiguous_format, "channels_last": torch.channels_last}
DENSE_BATCHES = 2  # real ones, taken in turn; a dense batch costs the same whatever it holds


def expression_model(setting: Setting, layout: str) -> torch.nn.Module:
    """The expression model with the benchmark's weights, in evaluation mode."""
    return _model(setting, "expression", torch_reference.Expression, layout)


def forward(setting: Setting, *, batch: int, layout: str = "published") -> Prepared:
    """Predictions of a batch of genes."""
    model = expression_model(setting, layout)
    batches = _batches(setting, batch, layout)

    def run(index: int) -> list[float]:
        with torch.inference_mode():
            return model(*batches[index % len(batches)][:4])[0].tolist()

    return Prepared(run, work=batch)


def train(
    setting: Setting, *, batch: int, layout: str = "published", encoder: str = "tuned"
) -> Prepared:
    """A step with AdamW. An encoder `frozen_as_published` keeps its weights, while its BatchNorm
    goes on using batch statistics; that of a `frozen` one uses its running statistics.
    """
    model = expression_model(setting, layout).train()
    if encoder != "tuned":
        for parameter in model.seq_encoder.parameters():
            parameter.requires_grad_(False)
    if encoder == "frozen":
        model.seq_encoder.eval()
    batches = _batches(setting, batch, layout)
    settings = setting.config.train
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad],
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
    )
    loss_of = torch_reference.LOSSES[settings.loss]

    def run(index: int) -> list[float]:
        *arrays, labels = batches[index % len(batches)]
        optimizer.zero_grad()
        loss = loss_of(model(*arrays)[0], labels)
        loss.backward()
        optimizer.step()
        return [loss.item()]

    return Prepared(run, work=1)


def genome_pass(setting: Setting) -> Prepared:
    """Some genes of the pass, dense, as one batch."""
    model = expression_model(setting, "published")
    chosen = inputs.whole_chromosomes(setting, 1)[: inputs.CHECKED_GENES]
    arrays = _tensors(setting.dense(chosen), "published")[:4]

    def run(index: int) -> list[float]:
        with torch.inference_mode():
            return model(*arrays)[0].tolist()

    return Prepared(run, work=len(chosen))


def window_mutagenesis(setting: Setting, *, window_bp: int) -> Prepared:
    """Every substitution of one window through the activity model, all mutants as one batch."""
    model = _model(setting, "activity", torch_reference.Activity, "published")
    codes = inputs.random_window(setting, window_bp)
    bases = torch.from_numpy(sequence.one_hot(inputs.mutants(codes)))

    def run(index: int) -> list[float]:
        with torch.inference_mode():
            return model(bases).tolist()

    return Prepared(run, work=1)


def gene_mutagenesis(setting: Setting, *, elements: int, literal: bool = False) -> Prepared:
    """Substitutions of a long element of a gene, each scored by the expression model, some only.

    The loop that is timed embeds 64 mutants at once and takes the other elements from a cache;
    `literal` runs the whole model on one mutant. Work is the part of all mutants that a run makes.
    """
    model = expression_model(setting, "published")
    gene, slot = inputs.gene_with_long_element(setting, elements)
    data = dense(setting.data, np.array([gene]))
    codes = setting.data.sequences[gene].codes[slot]
    every = inputs.mutants(codes)
    chosen = inputs.spread(len(every), inputs.CHECKED_MUTANTS)
    arrays = _tensors(data, "published")[1:4]
    bases = torch.from_numpy(data.bases)
    changed = torch.from_numpy(sequence.one_hot(every[chosen]))
    with torch.inference_mode():
        others = _embedded(model, bases)[0]

    def cached(index: int) -> list[float]:
        with torch.inference_mode():
            own = _embedded(model, changed[:, None])[:, 0]
            slots = others.repeat(len(chosen), 1, 1)
            slots[:, slot] = own
            repeated = [a.expand(len(chosen), *a.shape[1:]) for a in arrays]
            return _interact(model, slots, *repeated).tolist()

    def whole(index: int) -> list[float]:
        with torch.inference_mode():
            mutant = bases.clone()
            mutant[0, slot] = changed[index % len(chosen)]
            return model(_laid_out(mutant, "published"), *arrays)[0].tolist()

    return Prepared(whole if literal else cached, (1 if literal else len(chosen)) / len(every))


def removal(setting: Setting, *, elements: int, slots: int) -> Prepared:
    """Each element of a gene removed in turn by a whole forward; a run is one forward of the loop.

    The loop makes one forward for the gene as it is and one for each element.
    """
    model = expression_model(setting, "published")
    data = dense(setting.data, np.array([inputs.gene_with(setting, elements)]), slots=slots)

    def run(index: int) -> list[float]:
        without = index % (elements + 1)
        mask, bases = data.mask.copy(), data.bases.copy()
        if without:
            mask[0, without], bases[0, without] = False, 0
        arrays = _tensors(data._replace(mask=mask, bases=bases), "published")[:4]
        with torch.inference_mode():
            return model(*arrays)[0].tolist()

    def numbers() -> list[float]:
        return [run(index)[0] for index in inputs.spread(elements + 1, inputs.CHECKED_REMOVALS)]

    return Prepared(run, work=1 / (elements + 1), numbers=numbers)


JOBS = {
    "forward": forward,
    "train": train,
    "genome_pass": genome_pass,
    "window_mutagenesis": window_mutagenesis,
    "gene_mutagenesis": gene_mutagenesis,
    "removal": removal,
}


def _model(setting: Setting, kind: str, module_type, layout: str) -> torch.nn.Module:
    torch.set_num_threads(setting.threads)
    network = networks.read(setting.weights_file, kind)
    module = torch_reference.load_state(module_type(network.config), network.tensors)
    return module.float().to(memory_format=LAYOUTS[layout]).eval()


def _batches(setting: Setting, batch: int, layout: str) -> list[tuple[torch.Tensor, ...]]:
    order = setting.order(batch)
    return [_tensors(setting.dense(order.indices(step)), layout) for step in range(DENSE_BATCHES)]


def _tensors(data: Dense, layout: str) -> tuple[torch.Tensor, ...]:
    bases, *others = map(torch.from_numpy, data)
    return (_laid_out(bases, layout), *others)


def _laid_out(bases: torch.Tensor, layout: str) -> torch.Tensor:
    """[B, S, L, 4] whose channels-first view, which the model takes, is contiguous in `layout`."""
    first = bases.permute(0, 3, 1, 2).contiguous(memory_format=LAYOUTS[layout])
    return first.permute(0, 2, 3, 1)


def _embedded(model, bases: torch.Tensor) -> torch.Tensor:
    """[B, S, L, 4] to [B, S, D]: the model's first half."""
    x = model.conv_out(model.seq_encoder(_laid_out(bases, "published").permute(0, 3, 1, 2)))
    return x.permute(0, 2, 1, 3).reshape(*bases.shape[:2], -1)


def _interact(model, slots, mask, links, genes) -> torch.Tensor:
    """[B, S, D] to expression: the model's own forward, its first half replaced by what it gave."""
    second_half = types.SimpleNamespace(**model._modules, uses_links=model.uses_links)
    second_half.seq_encoder = lambda x: x
    second_half.conv_out = lambda x: slots.transpose(1, 2)[..., None]
    return torch_reference.Expression.forward(second_half, slots[..., None], mask, links, genes)[0]
