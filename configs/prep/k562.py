r"""K562 on hg38 by the published rules: DNase, H3K27ac, Hi-C to genes, links, windows, TFRECORDs.

python -m data_prep download --out data --groups genome,annotation,expression,K562 --names \
'hg38*,genes_18377.bed,mRNA_*,57*.pc.gz,K562/dnase.bam,K562/h3k27ac.bam,K562/*_peaks*,K562/*4dn*'
(cd data && $(python -m data_prep candidates --print-peak-caller K562/dnase.bam))
cat > data/samples.csv <<END
cell_type,accessibility,assay,h3k27ac,peaks,window_peaks,contact,expression,expression_column
K562,K562/dnase.bam,DNase,K562/h3k27ac.bam,macs/peaks_peaks.narrowPeak,K562/h3k27ac_peaks.bed.gz,\
K562/contacts_4dn.hic,57epigenomes.RPKM.pc.gz,E123
END
python -m data_prep run --config configs/prep/k562.py --out runs/k562 --set root=data

Each file is used as it comes, packed or not; the peaks alone are called here, by MACS, an outside
tool. The genes are the published 18,377 (genes_18377.bed is the original project's GeneList.bed,
whose TSSs those of mRNA_halflife_features.csv are, by the rule bed-end); E123 is K562 in Roadmap.
"""

import ml_collections


def get_config():
    """The fields that differ from the defaults; `python -m data_prep run --list-fields` has all."""
    config = ml_collections.ConfigDict()
    config.name = "K562, published rules"
    config.root = "data"
    config.samples = "samples.csv"
    config.genome = {
        "name": "hg38",
        "fasta": "hg38.fa.gz",
        "contigs": "hg38.chrom.sizes",
        "blacklist": "hg38-blacklist.v2.bed.gz",
    }
    config.genes = {
        "annotation": "genes_18377.bed",
        "tss_rule": "bed-end",
        "mrna_features": "mRNA_halflife_features.csv",
    }
    config.labels = {"name": "rna", "transform": "z-log10"}
    config.candidates = {"extend_bp": 250, "peaks_kept": 150_000, "blacklist_rule": "subtract"}
    config.windows = {"layout": "published"}
    return config
