"""Directories of made-up runs: what a cross-validation leaves, and a single fold of windows."""

import json
import pathlib

import numpy as np
import pandas as pd

from epinformer_jax.train import metrics

CHROMOSOMES = ("chr1", "chr2", "chr3", "chr8", "chr10", "chrX")
BASELINES = {"training_mean": 0.0, "promoter_activity": 0.75, "ridge": 0.8, "mlp": 0.86}


def gene_predictions(n=240, model_noise=0.4, seed=0):
    """Two folds of genes with predictions of the model and of baselines."""
    rng = np.random.default_rng(seed)
    measured = rng.normal(size=n)
    chrom = np.array(CHROMOSOMES)[np.arange(n) % len(CHROMOSOMES)]
    table = pd.DataFrame(
        {
            "gene_id": [f"ENSG{number:05d}" for number in range(n)],
            "gene_name": [f"GENE{number}" for number in range(n)],
            "chrom": chrom,
            "split": chrom,
            "tss": rng.integers(200_000, 90_000_000, n),
            "fold": np.where(np.arange(n) % 2, "fold_10", "fold_2"),
            "measured": measured,
            "prediction": 0.9 * measured + model_noise * rng.normal(size=n),
            "n_elements": rng.integers(0, 25, n),
        }
    )
    for name, r in BASELINES.items():
        noise = np.sqrt(1 - r**2) * rng.normal(size=n) if r else 0.01 * (table["fold"] == "fold_2")
        table[f"baseline_{name}"] = r * measured + noise
    return table


def attention(genes, seed=0):
    """Elements of each gene, with attention that sums to less than 1."""
    rng = np.random.default_rng(seed)
    rows = []
    for gene in genes.to_dict("records"):
        shares = rng.dirichlet(np.full(gene["n_elements"] + 1, 0.4))
        for share in shares[1:]:
            distance = int(rng.integers(1_001, 100_000) * rng.choice([-1, 1]))
            start = gene["tss"] + distance - 300
            rows.append(
                {
                    "gene_id": gene["gene_id"],
                    "chrom": gene["chrom"],
                    "start": start,
                    "end": start + 600,
                    "distance": distance,
                    "activity": rng.gamma(1.0, 3.0),
                    "contact": 300 * abs(distance) ** -0.9,
                    "attention": share,
                }
            )
    return pd.DataFrame(rows)


def history(epochs=12, seed=0):
    """Losses that fall and a correlation that rises, then sinks."""
    epoch = np.arange(1, epochs + 1)
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "epoch": epoch,
            "step": 100 * epoch,
            "train_loss": 0.5 * np.exp(-epoch / 3) + 0.1,
            "valid_loss": 0.5 * np.exp(-epoch / 3) + 0.15 + 0.004 * epoch,
            "valid_pearson": 0.85
            - 0.4 * np.exp(-epoch / 2)
            - 0.001 * epoch
            + 0.005 * rng.normal(size=epochs),
            "valid_spearman": 0.8 - 0.4 * np.exp(-epoch / 2),
            "learning_rate": 5e-4,
            "seconds": 3.0,
        }
    )


def evaluated(table, column, draws=100):
    """Scores of one column."""
    arrays = (table[name].to_numpy() for name in ("measured", column, "split"))
    return metrics.evaluate(*arrays, draws=draws)


def write_tsv(path, table):
    """A table as training writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, sep="\t", index=False, float_format="%.7g")


def write_json(path, content):
    """JSON as training writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_expression_run(directory: pathlib.Path, *, table=None, name="K562 demo", **extra):
    """A cross-validation of two folds with everything that a run can hold."""
    table = gene_predictions() if table is None else table
    columns = ["prediction", *(name for name in table if name.startswith("baseline_"))]
    names = {c: "model" if c == "prediction" else c for c in columns}
    for fold, rows in table.groupby("fold"):
        folder = directory / fold
        write_tsv(folder / "predictions.tsv", rows[[c for c in rows if "baseline" not in c]])
        write_tsv(folder / "history.tsv", history(seed=len(rows)))
        write_tsv(folder / "attention.tsv", attention(rows))
        model = evaluated(rows, "prediction")
        write_json(folder / "metrics.json", {"fold": fold, "best_epoch": 7, "model": model})
        write_tsv(folder / "encoder" / "history.tsv", history(seed=1))
        write_json(folder / "encoder" / "metrics.json", {"best_epoch": 5, "model": model})
    write_tsv(directory / "predictions.tsv", table)
    arrays = (table[c].to_numpy() for c in ("measured", "prediction", "baseline_mlp", "split"))
    content = {
        "task": "expression",
        "name": name,
        "label": "rna",
        "control": "none",
        "n": len(table),
        "pooled": {names[c]: evaluated(table, c) for c in columns},
        "folds": {
            fold: {names[c]: evaluated(rows, c) for c in columns}
            for fold, rows in table.groupby("fold")
        },
        "best_baseline": "baseline_mlp",
        "gain": {"pearson": metrics.paired_bootstrap(*arrays)},
        "controls": {"scrambled_sequence": evaluated(table, "baseline_ridge")},
        "ceiling": 0.93,
    }
    write_json(directory / "metrics.json", {**content, **extra})
    config = {
        "task": "expression",
        "name": name,
        "seed": 66,
        "data": {"label": "rna", "label_unit": "z of log10(RPKM + 0.1)", "folds": "published"},
        "features": {"preset": "PE-Activity-HiC", "schema": "log_signals"},
        "model": {"layers": 3, "max_elements": 60},
        "train": {"learning_rate": 0.0005, "batch_size": 16, "epochs": 100},
    }
    write_json(directory / "config.json", {"config": config, "data": {"genes": "abcdef" * 10}})
    write_json(directory / "versions.json", {"epinformer_jax": "0.1.0", "jax": "0.10.2"})
    return directory


def write_activity_run(directory: pathlib.Path):
    """Windows, one fold, and little else."""
    table = gene_predictions(120)[["chrom", "split", "fold", "measured", "prediction"]]
    table = table.assign(name=[f"window_{n}" for n in range(120)], fold="fold_1")
    table["baseline_kmer_ridge"] = table["measured"] + np.random.default_rng(5).normal(size=120)
    write_tsv(directory / "predictions.tsv", table)
    write_tsv(directory / "fold_1" / "history.tsv", history(epochs=1))
    write_json(directory / "config.json", {"config": {"task": "activity", "data": {}}, "data": {}})
    return directory
