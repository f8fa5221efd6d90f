"""Baselines without a network: a model's score means what it gains over the best of them.

Expression: five predictors that see a gene's scalars (promoter activity, mRNA features, sums over
its elements) and never a base of DNA. Activity: ridge on k-mer counts. Each is trained on the
training rows alone, is deterministic, and chooses whatever it chooses (offset, ridge strength, when
to stop) inside the training rows.
"""

import itertools
import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Num
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from epinformer_jax.data.records import GeneExample
from epinformer_jax.data.sequence import reverse_complement

SEED = 0
BASELINES = ("training_mean", "promoter_activity", "ridge", "boosted_trees", "mlp")

# Added to promoter activity (the square root of RPM x RPM) before the logarithm; the one that fits
# the training genes best is used.
PROMOTER_OFFSETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
RIDGE_STRENGTHS = tuple(10.0**power for power in range(-2, 6))

# Added before the logarithm: 1 to what is in RPM (0.05 in the promoter's second logarithm, which
# tells weak promoters apart), and to contact and its products about their value at 100 kb.
SIGNAL_OFFSET_RPM = 1.0
WEAK_OFFSET_RPM = 0.05
CONTACT_OFFSET = 1e-3
NO_ELEMENT_DISTANCE_KB = 1000.0
COUNT_WITHIN_KB = (10, 25, 50, 100)

_RAW_PROMOTER = "promoter_activity"
_MLP_MEMBERS = 3


def scalar_table(
    examples: Sequence[GeneExample],
    link_signal_names: Sequence[str],
    gene_signal_names: Sequence[str],
) -> pd.DataFrame:
    """One row a gene of float64 scalars, without sequence or label, indexed by `gene_id`, in order.

    Columns:
      promoter_activity: as it is, for the baseline of that name; the others leave it out.
      log_promoter_*, log_weak_promoter_*: ln(1 + s) and ln(0.05 + s) of each gene signal s whose
        name starts with promoter_ (activity, and dnase and h3k27ac where the data set has them).
      the other gene signals (mRNA features), unchanged.
      number_of_elements, elements_within_10_kb, .._25_kb, .._50_kb, .._100_kb.
      log_nearest_distance_kb: 1,000 kb where a gene has no element.
      log_sum_*, log_max_*, log_mean_* over the gene's elements, 0 before the logarithm where it has
        none: activity and activity_per_kb (activity / distance) as ln(1 + s), contact and
        activity_x_contact as ln(0.001 + s).
      log_sum_dnase, log_sum_dnase_per_kb, and so for h3k27ac, where links have them: ln(1 + s).

    Distance is absolute and at least 1 kb here. Signals are in RPM, contact a share of a row sum.

    Raises:
      ValueError: activity, contact or promoter_activity is not among the names; a gene has another
        number of signals than there are names; a signal that is logged is negative or NaN.
    """
    _require_names(link_signal_names, ("activity", "contact"), what="link_signal_names")
    _require_names(gene_signal_names, (_RAW_PROMOTER,), what="gene_signal_names")
    _check_widths(examples, len(link_signal_names), len(gene_signal_names))
    genes = _gene_columns(examples, gene_signal_names)
    elements = _element_columns(examples, link_signal_names)
    index = pd.Index([example.gene_id for example in examples], name="gene_id")
    return pd.DataFrame({**genes, **elements}, index=index)


def fit_predict(
    train_frame: pd.DataFrame,
    train_labels: Num[np.ndarray, " N"],
    test_frame: pd.DataFrame,
) -> dict[str, np.ndarray]:
    """Trains the scalar baselines on training genes, predicts the test genes: float64 by name.

    training_mean; promoter_activity (least-squares line on ln(offset + promoter activity), of
    PROMOTER_OFFSETS the one with the smallest training error); ridge (strength by 5-fold
    cross-validation); boosted_trees; mlp (mean of three networks, each stopped early on a tenth of
    the training genes; below 50 genes without early stop). Same inputs, same numbers.

    Raises:
      ValueError: fewer than 2 training genes, columns or lengths that differ, or a NaN anywhere.
    """
    labels = np.asarray(train_labels, np.float64)
    _check_frames(train_frame, labels, test_frame)
    columns = [name for name in train_frame.columns if name != _RAW_PROMOTER]
    train = train_frame[columns].to_numpy(np.float64)
    test = test_frame[columns].to_numpy(np.float64)
    if not len(test):
        return {name: np.zeros(0) for name in BASELINES}
    scaler = StandardScaler().fit(train)
    scaled_train, scaled_test = scaler.transform(train), scaler.transform(test)
    promoter = train_frame[_RAW_PROMOTER].to_numpy(np.float64)
    test_promoter = test_frame[_RAW_PROMOTER].to_numpy(np.float64)
    return {
        "training_mean": np.full(len(test), labels.mean()),
        "promoter_activity": _promoter_line(promoter, labels, test_promoter),
        "ridge": _ridge(scaled_train, labels, scaled_test, groups=np.arange(len(labels))),
        "boosted_trees": _boosted_trees(train, labels, test),
        "mlp": _mlp(scaled_train, labels, scaled_test),
    }


def kmer_ridge(
    train_sequences: Sequence[Num[np.ndarray, "_"]],
    train_labels: Num[np.ndarray, " N"],
    test_sequences: Sequence[Num[np.ndarray, "_"]],
    *,
    k: int = 5,
) -> Float[np.ndarray, " M"]:
    """Predicts activity from how often each k-mer occurs on the two strands, by ridge regression.

    Sequences are nibble codes (A=1 C=2 G=4 T=8, 0 unknown). A k-mer and its reverse complement are
    one feature, so both orientations of a sequence get the same prediction; a k-mer with an unknown
    base is not counted. The ridge strength comes from 5-fold cross-validation inside the training
    rows, in which both orientations of a sequence stand in the same fold.

    Raises:
      ValueError: k outside 1..8, fewer than 2 training sequences, or another number of labels.
    """
    labels = np.asarray(train_labels, np.float64)
    if not 1 <= k <= 8:
        raise ValueError(f"kmer_ridge: {k=}, expected 1 to 8 (4^k features); choose a smaller k")
    if len(train_sequences) != len(labels) or len(labels) < 2:
        raise ValueError(
            f"kmer_ridge: {len(train_sequences)} training sequences and {len(labels)} labels, "
            "expected the same number, at least 2"
        )
    if not len(test_sequences):
        return np.zeros(0)
    train = kmer_counts(train_sequences, k=k)
    test = kmer_counts(test_sequences, k=k)
    return _ridge(train, labels, test, groups=_twin_groups(train_sequences))


def kmer_counts(sequences: Sequence[Num[np.ndarray, "_"]], *, k: int) -> Float[np.ndarray, "N F"]:
    """Counts of each k-mer together with its reverse complement; F = (4^k + palindromes) / 2."""
    feature_of_kmer = _canonical_kmers(k)
    digit = np.full(256, -1, np.int64)
    digit[[1, 2, 4, 8]] = np.arange(4)
    place = 4 ** np.arange(k - 1, -1, -1)
    counts = np.zeros((len(sequences), feature_of_kmer.max() + 1))
    for row, sequence in enumerate(sequences):
        if len(sequence) < k:
            continue
        digits = digit[np.asarray(sequence, np.uint8)]
        windows = np.lib.stride_tricks.sliding_window_view(digits, k)
        known = (windows >= 0).all(axis=1)
        features = feature_of_kmer[windows[known] @ place]
        counts[row] = np.bincount(features, minlength=counts.shape[1])
    return counts


def _canonical_kmers(k: int) -> np.ndarray:
    """Feature of each of the 4^k k-mers: the rank of the smaller of it and its other strand."""
    digits = np.array(list(itertools.product(range(4), repeat=k)))
    place = 4 ** np.arange(k - 1, -1, -1)
    smaller = np.minimum(digits @ place, (3 - digits[:, ::-1]) @ place)
    return np.unique(smaller, return_inverse=True)[1]


def _twin_groups(sequences: Sequence[np.ndarray]) -> Int[np.ndarray, " N"]:
    """One integer per distinct min(sequence, reverse complement)."""
    number_of: dict[bytes, int] = {}
    return np.array(
        [
            number_of.setdefault(
                min(bytes(codes), bytes(reverse_complement(codes))), len(number_of)
            )
            for codes in sequences
        ],
        np.int64,
    )


def _promoter_line(
    promoter: np.ndarray, labels: np.ndarray, test_promoter: np.ndarray
) -> Float[np.ndarray, " M"]:
    """The least-squares line on ln(offset + promoter activity), of the offset that fits best."""
    best = None
    for offset in PROMOTER_OFFSETS:
        logged = np.log(offset + promoter)
        centred = logged - logged.mean()
        spread = centred @ centred
        slope = centred @ (labels - labels.mean()) / spread if spread > 0 else 0.0
        intercept = labels.mean() - slope * logged.mean()
        error = np.square(labels - intercept - slope * logged).sum()
        if best is None or error < best[0]:
            best = (error, offset, slope, intercept)
    _, offset, slope, intercept = best
    return intercept + slope * np.log(offset + test_promoter)


def _ridge(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, *, groups: np.ndarray
) -> Float[np.ndarray, " M"]:
    """Ridge regression; the strength with the least squared error over 5 folds of whole groups."""
    names, group = np.unique(groups, return_inverse=True)
    num_folds = min(5, len(names))
    fold = (np.random.default_rng(SEED).permutation(len(names)) % num_folds)[group]
    errors = np.zeros(len(RIDGE_STRENGTHS))
    for part in range(num_folds if num_folds > 1 else 0):
        inside, outside = fold != part, fold == part
        predicted = _ridge_path(train[inside], labels[inside], train[outside])
        errors += np.square(predicted - labels[outside]).sum(axis=1)
    # A tie (one group, so nothing to choose by; or constant labels) goes to the strongest.
    best = len(errors) - 1 - int(np.argmin(errors[::-1]))
    return _ridge_path(train, labels, test)[best]


def _ridge_path(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray
) -> Float[np.ndarray, "strengths M"]:
    """Predictions at each of RIDGE_STRENGTHS from one eigenproblem; the intercept is free."""
    centre, mean = train.mean(axis=0), labels.mean()
    centred = train - centre
    values, vectors = np.linalg.eigh(centred.T @ centred)
    weights = vectors.T @ (centred.T @ (labels - mean))
    projected = (test - centre) @ vectors
    shrunk = weights / (np.maximum(values, 0.0) + np.array(RIDGE_STRENGTHS)[:, None])
    return mean + shrunk @ projected.T


def _boosted_trees(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray
) -> Float[np.ndarray, " M"]:
    """300 boosted trees of up to 15 leaves; a leaf holds a twentieth of the genes, at most 20."""
    model = HistGradientBoostingRegressor(
        learning_rate=0.05,
        max_iter=300,
        max_leaf_nodes=15,
        min_samples_leaf=int(np.clip(len(labels) // 20, 1, 20)),
        l2_regularization=1.0,
        early_stopping=False,
        random_state=SEED,
    )
    # several threads wait for each other by spinning: minutes where other programs use the cores
    with threadpool_limits(1, user_api="openmp"):
        return model.fit(train, labels).predict(test)


def _mlp(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> Float[np.ndarray, " M"]:
    """The mean of small networks on standardised scalars and labels, each with its own seed."""
    if np.ptp(labels) == 0:
        return np.full(len(test), labels[0])
    centre, spread = labels.mean(), labels.std()
    predictions = []
    for member in range(_MLP_MEMBERS):
        model = MLPRegressor(
            hidden_layer_sizes=(64, 32),
            alpha=0.3,
            batch_size=int(np.clip(len(labels) // 8, 1, 256)),
            learning_rate_init=1e-3,
            max_iter=200,
            early_stopping=len(labels) >= 50,
            n_iter_no_change=10,
            random_state=SEED + member,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(train, (labels - centre) / spread)
        predictions.append(model.predict(test))
    return centre + spread * np.mean(predictions, axis=0)


def _gene_columns(
    examples: Sequence[GeneExample], gene_signal_names: Sequence[str]
) -> dict[str, np.ndarray]:
    """The gene signals by column: promoter activity raw, promoter signals logged, others as is."""
    signals = np.array([example.gene_signals for example in examples], np.float64)
    signals = signals.reshape(len(examples), len(gene_signal_names))
    columns = {_RAW_PROMOTER: signals[:, list(gene_signal_names).index(_RAW_PROMOTER)]}
    for index, name in enumerate(gene_signal_names):
        if name.startswith("promoter_"):
            _require_signal(signals[:, index], [example.gene_id for example in examples], name=name)
            columns[f"log_{name}"] = np.log(SIGNAL_OFFSET_RPM + signals[:, index])
            columns[f"log_weak_{name}"] = np.log(WEAK_OFFSET_RPM + signals[:, index])
        else:
            columns[name] = signals[:, index]
    return columns


def _element_columns(
    examples: Sequence[GeneExample], link_signal_names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Counts, nearest distance and logged sums, maxima and means over each gene's elements."""
    number = np.array([len(example.distance_bp) for example in examples], np.int64)
    owner = np.repeat(np.arange(len(examples)), number)
    empty = np.zeros((0, len(link_signal_names)))
    signals = np.concatenate([empty, *(example.link_signals for example in examples)])
    distance_bp = np.concatenate([np.zeros(0), *(example.distance_bp for example in examples)])
    distance_kb = np.maximum(np.abs(distance_bp) / 1000.0, 1.0)

    nearest_kb = np.full(len(examples), NO_ELEMENT_DISTANCE_KB)
    np.minimum.at(nearest_kb, owner, distance_kb)
    columns = {"number_of_elements": number.astype(np.float64)}
    for limit_kb in COUNT_WITHIN_KB:
        near = distance_kb <= limit_kb
        columns[f"elements_within_{limit_kb}_kb"] = np.bincount(
            owner[near], minlength=len(examples)
        ).astype(np.float64)
    columns["log_nearest_distance_kb"] = np.log(nearest_kb)

    by_name = {name: signals[:, index] for index, name in enumerate(link_signal_names)}
    for name in ("activity", "contact", "dnase", "h3k27ac"):
        if name in by_name:
            _require_signal(by_name[name], [examples[gene].gene_id for gene in owner], name=name)
    activity, contact = by_name["activity"], by_name["contact"]
    products = {
        "activity": (activity, SIGNAL_OFFSET_RPM),
        "contact": (contact, CONTACT_OFFSET),
        "activity_x_contact": (activity * contact, CONTACT_OFFSET),
        "activity_per_kb": (activity / distance_kb, SIGNAL_OFFSET_RPM),
    }
    for name, (values, offset) in products.items():
        total = np.bincount(owner, weights=values, minlength=len(examples))
        largest = np.zeros(len(examples))
        np.maximum.at(largest, owner, values)
        mean = total / np.maximum(number, 1)
        for statistic, column in (("sum", total), ("max", largest), ("mean", mean)):
            columns[f"log_{statistic}_{name}"] = np.log(offset + column)
    for name in ("dnase", "h3k27ac"):
        if name in by_name:
            for suffix, weights in (("", by_name[name]), ("_per_kb", by_name[name] / distance_kb)):
                total = np.bincount(owner, weights=weights, minlength=len(examples))
                columns[f"log_sum_{name}{suffix}"] = np.log(SIGNAL_OFFSET_RPM + total)
    return columns


def _require_signal(values: np.ndarray, gene_ids: Sequence[str], *, name: str) -> None:
    wrong = ~((values >= 0) & (values < np.inf))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"scalar_table: gene {gene_ids[row]} has {name} {values[row]}, expected a number >= 0; "
            "repair the tables the data set was built from"
        )


def _require_names(names: Sequence[str], required: Sequence[str], *, what: str) -> None:
    missing = [name for name in required if name not in names]
    if missing:
        raise ValueError(
            f"scalar_table: {what} is {list(names)}, expected also {missing}; take the names from "
            "the manifest"
        )


def _check_widths(examples: Sequence[GeneExample], num_links: int, num_genes: int) -> None:
    for example in examples:
        if example.link_signals.shape != (len(example.distance_bp), num_links):
            raise ValueError(
                f"scalar_table: gene {example.gene_id} has link signals of shape "
                f"{example.link_signals.shape}, expected {(len(example.distance_bp), num_links)} "
                "(elements, names); take the names from the manifest"
            )
        if example.gene_signals.shape != (num_genes,):
            raise ValueError(
                f"scalar_table: gene {example.gene_id} has gene signals of shape "
                f"{example.gene_signals.shape}, expected {(num_genes,)}; take the names from the "
                "manifest"
            )


def _check_frames(train_frame: pd.DataFrame, labels: np.ndarray, test_frame: pd.DataFrame) -> None:
    if list(train_frame.columns) != list(test_frame.columns):
        differing = sorted(set(train_frame.columns) ^ set(test_frame.columns))
        raise ValueError(
            f"fit_predict: training and test columns differ in {differing or 'their order'}, "
            "expected the same; make both with scalar_table and the same names"
        )
    if len(train_frame) != len(labels) or len(labels) < 2:
        raise ValueError(
            f"fit_predict: {len(train_frame)} training genes and {len(labels)} labels, expected "
            "the same number, at least 2"
        )
    for what, values in (("training", train_frame), ("test", test_frame)):
        if not np.isfinite(values.to_numpy(np.float64)).all():
            raise ValueError(
                f"fit_predict: a {what} scalar is NaN or infinite, expected finite numbers"
            )
    if not np.isfinite(labels).all():
        raise ValueError(
            "fit_predict: a training label is NaN or infinite, expected finite numbers"
        )
