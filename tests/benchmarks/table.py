"""The lines of the benchmark: who is compared with whom, on what, and what is asked of us."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Contender:
    """One way of doing a line's job.

    Attributes:
      name: how it is called in this line.
      side: `reference` (PyTorch) or `ours`.
      job, options: what the side's process prepares.
      least: runs in all, at least.
      agrees: contenders of the same group must give the same numbers; "" stands alone.
      is_timed: whether its time is taken, or its numbers are compared alone.
    """

    name: str
    side: str
    job: str
    options: dict[str, Any]
    least: int = 0
    agrees: str = "all"
    is_timed: bool = True


@dataclasses.dataclass(frozen=True)
class Target:
    """`ours` is to be at least so many times faster than `against`; a stretch may be missed."""

    ours: str
    at_least: float
    against: str = "torch"
    allocator: str = "hugetlb"
    stretch: bool = False


@dataclasses.dataclass(frozen=True)
class Line:
    """A job with its contenders, the reference first."""

    name: str
    title: str
    unit: str
    contenders: tuple[Contender, ...]
    targets: tuple[Target, ...]
    tolerance: float = 1e-6
    note: str = ""

    def again(self, allocator: str) -> "Line":
        """The line as it is measured under another allocator: PyTorch in one layout, targets of
        that allocator alone.
        """
        contenders = tuple(one for one in self.contenders if one.name != BETTER_LAYOUT)
        targets = tuple(target for target in self.targets if target.allocator == allocator)
        return dataclasses.replace(self, contenders=contenders, targets=targets)


BETTER_LAYOUT = "torch, channels last"
PUBLISHED_FREEZE = "torch, encoder frozen as published"
LITERAL = "torch, whole model for each"
# Of the first step. PyTorch's two layouts are 2e-5 apart; what proves the step is float64, before.
FLOAT32_LOSS = 1e-4
LAYOUT_NOTE = (
    "PyTorch runs in the original's memory layout (channels first), which costs it 1.2-1.5 times; "
    "`channels last` is our ratio to the better one. Its times depend on where its memory comes "
    "from, fresh or used before: `to its fastest` compares our mean with its fastest run."
)
FROZEN_NOTE = (
    "Frozen: our step reads cached encoder outputs, reading included; numbers are compared with "
    "PyTorch's step behind an encoder in evaluation mode. Of two folds at once the time is that of "
    "both by their steps."
)
PASS_NOTE = (
    "Pass: whole chromosomes of at least 1,800 genes, everything from records to the table of "
    "predictions; PyTorch's time a gene is that of a batch of 4."
)
READING_NOTE = (
    "Mutagenesis of a gene: all 6,000 substitutions of a 2 kb element of a gene with 15 elements; "
    "PyTorch is timed on 64 of them (one, for the whole model) and scaled. Removal: its "
    "loop is timed by single forwards; ours by the command's function, for one gene and for "
    "several that share no element."
)


def torch(
    name: str, job: str, *, agrees: str = "all", is_timed: bool = True, **options: Any
) -> Contender:
    """A contender on the reference's side."""
    return Contender(name, "reference", job, options, agrees=agrees, is_timed=is_timed)


def ours(name: str, job: str, *, least: int = 0, **options: Any) -> Contender:
    """A contender on our side."""
    return Contender(name, "ours", job, options, least)


def _better_layout(job: str, batch: int) -> tuple[Contender, ...]:
    """At batch 4 alone: a step of the reference at batch 16 takes its time."""
    if batch > 4:
        return ()
    return (torch(BETTER_LAYOUT, job, batch=batch, layout="channels_last"),)


def _forward(batch: int, ways: dict[str, str], targets: tuple[Target, ...]) -> Line:
    return Line(
        f"forward_{batch}",
        f"expression forward, batch {batch}",
        "gene",
        (
            torch("torch", "forward", batch=batch),
            *_better_layout("forward", batch),
            *(
                ours(name, "forward", least=2, batch=batch, kmer_table=choice)
                for name, choice in ways.items()
            ),
        ),
        targets,
        note=LAYOUT_NOTE,
    )


def _train(batch: int, extra: tuple[Contender, ...], targets: tuple[Target, ...]) -> Line:
    return Line(
        f"train_{batch}",
        f"train step with AdamW, padded statistics, batch {batch}",
        "step",
        (
            torch("torch", "train", batch=batch),
            *_better_layout("train", batch),
            ours("packed", "train", least=32, batch=batch),
            *extra,
        ),
        targets,
        tolerance=FLOAT32_LOSS,
        note=LAYOUT_NOTE,
    )


def _removal(elements: int, slots: int, genes: int, at_least: float) -> Line:
    many = f"{genes} genes at once"
    return Line(
        f"removal_{elements}",
        f"removal of each of {elements} elements, against a loop over {slots} slots",
        "gene",
        (
            torch("torch", "removal", elements=elements, slots=slots),
            ours("one gene", "removal", elements=elements),
            ours(many, "removal", elements=elements, genes=genes),
            ours(
                f"{many}, 11-mer table", "removal", elements=elements, genes=genes, kmer_table="on"
            ),
        ),
        (
            Target("one gene", at_least),
            Target(many, at_least),
            Target(f"{many}, 11-mer table", at_least),
        ),
        tolerance=1e-5,
        note=READING_NOTE,
    )


LINES = (
    _forward(
        4,
        {"packed": "off", "8-mer taps": "small", "11-mer table": "on"},
        (
            Target("packed", 18),
            Target("packed", 20, allocator="default"),
            Target("8-mer taps", 18),
            Target("8-mer taps", 20, allocator="default"),
            Target("11-mer table", 65),
            Target("11-mer table", 95, allocator="default"),
        ),
    ),
    _forward(16, {"packed": "off"}, ()),
    _train(4, (), (Target("packed", 8),)),
    _train(
        16,
        (ours("8-mer tables", "train", least=32, batch=16, tables=True),),
        (
            Target("8-mer tables", 18),
            Target("8-mer tables", 25, stretch=True),
            Target("packed", 17, allocator="default"),
            Target("8-mer tables", 35, allocator="default", stretch=True),
        ),
    ),
    Line(
        "frozen_4",
        "train step behind a frozen encoder, batch 4, cache warm",
        "step",
        (
            torch("torch", "train", agrees="", batch=4),
            torch(PUBLISHED_FREEZE, "train", agrees="", batch=4, encoder="frozen_as_published"),
            torch("torch, frozen", "train", is_timed=False, batch=4, encoder="frozen"),
            ours("cached", "train_cached", least=2, batch=4),
            ours("cached, two folds at once", "train_cached", least=2, batch=4, folds=2),
        ),
        (Target("cached", 200), Target("cached", 80, against=PUBLISHED_FREEZE)),
        tolerance=FLOAT32_LOSS,
        note=FROZEN_NOTE,
    ),
    Line(
        "pass",
        "pass over a genome's genes, each distinct element once",
        "gene",
        (
            torch("torch", "genome_pass"),
            ours("layers alone", "genome_pass"),
            ours("8-mer taps", "genome_pass", kmer_table="small"),
        ),
        (Target("layers alone", 60), Target("8-mer taps", 60)),
        note=PASS_NOTE,
    ),
    Line(
        "window_256",
        "all 768 substitutions of 256 bp, activity model",
        "window",
        (
            torch("torch", "window_mutagenesis", window_bp=256),
            ours("local", "window_mutagenesis", window_bp=256),
            ours("8-mer taps", "window_mutagenesis", window_bp=256, kmer_table="small"),
            ours("11-mer table", "window_mutagenesis", window_bp=256, kmer_table="on"),
        ),
        (Target("local", 40), Target("8-mer taps", 40), Target("11-mer table", 100)),
        tolerance=1e-5,
    ),
    Line(
        "gene_2kb",
        "all 6,000 substitutions of a 2 kb element in a gene of 15",
        "gene",
        (
            torch("torch", "gene_mutagenesis", elements=15),
            torch(LITERAL, "gene_mutagenesis", agrees="", elements=15, literal=True),
            ours("local", "gene_mutagenesis", elements=15),
            ours("8-mer taps", "gene_mutagenesis", elements=15, kmer_table="small"),
            ours("11-mer table", "gene_mutagenesis", elements=15, kmer_table="on"),
        ),
        (
            Target("local", 200),
            Target("local", 10_000, against=LITERAL),
            Target("8-mer taps", 200),
            Target("8-mer taps", 10_000, against=LITERAL),
            Target("11-mer table", 200),
            Target("11-mer table", 10_000, against=LITERAL),
        ),
        tolerance=1e-5,
        note=READING_NOTE,
    ),
    _removal(60, 61, 8, 300),
    _removal(15, 16, 32, 60),
)
