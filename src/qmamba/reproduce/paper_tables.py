"""The figures of the QMamba paper, to lay beside ours.

Source: QMamba paper, tables 1 to 10, read from its text. Two labels of tables 3 and 7 are lost in
that text; they are named here by their place and by the tables that repeat their figures, and
marked as such. A figure that the paper leaves out is None.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Literal, TypeAlias

from qmamba.errors import ConfigError

Metric: TypeAlias = Literal["plcc", "srcc", "mean", "parameters", "gflops"]
"""``mean`` is that of all correlations of a row; ``parameters`` are in 10^6, ``gflops`` the
multiply-adds in 10^9."""

SYNTHETIC = ("kadid10k", "live")
AUTHENTIC = ("koniq10k", "livec")
GENERATED = ("aigciqa2023", "agiqa3k")
MIXED = ("live", "kadid10k", "livec", "koniq10k", "agiqa3k", "aigciqa2023")
"""The six data sets of universal training, in the order of table 6."""
TASKS = ("live", "csiq", "tid2013", "kadid10k", "livec", "koniq10k", "flive", "spaq")
"""The data sets of table 1, in its order."""


@dataclass(frozen=True)
class Column:
    """What the figures of a column are."""

    metric: Metric
    test: str = ""
    """Data set that was tested on; empty for a mean over data sets and for costs."""
    train: tuple[str, ...] = ()
    """Data sets of the first training, where a column has its own."""


@dataclass(frozen=True)
class PaperRow:
    """One row of a table."""

    label: str
    """As in the paper, without the number of parameters."""
    figures: tuple[float | None, ...]
    """One per column."""
    label_is_ours: bool = False
    """Whether the label is lost in the text that the figures were read from."""


@dataclass(frozen=True)
class PaperTable:
    """One table of the paper."""

    name: str
    """``"table1"`` to ``"table10"``."""
    title: str
    columns: tuple[Column, ...]
    rows: tuple[PaperRow, ...]

    def row(self, label: str) -> PaperRow:
        """The row with this label.

        Raises:
            ConfigError: there is none.
        """
        for row in self.rows:
            if row.label == label:
                return row
        labels = ", ".join(row.label for row in self.rows)
        raise ConfigError(f"{self.name} has no row {label!r}; its rows are {labels}.")


def _correlations(sets: tuple[str, ...], train: tuple[str, ...] = ()) -> tuple[Column, ...]:
    metrics: tuple[Metric, ...] = ("plcc", "srcc")
    return tuple(Column(metric, test, train) for test, metric in product(sets, metrics))


def _table(number: int, title: str, columns: tuple[Column, ...], text: str) -> PaperTable:
    # A row is "label | figures", and goes on in the lines below that have no bar.
    joined: list[str] = []
    for line in text.strip().splitlines():
        if " | " in line:
            joined.append(line)
        else:
            joined[-1] += line
    rows = []
    for line in joined:
        label, _, written = line.partition(" | ")
        figures = tuple(None if word == "-" else float(word) for word in written.split())
        assert len(figures) == len(columns), line
        rows.append(PaperRow(label.removesuffix("*"), figures, label.endswith("*")))
    return PaperTable(f"table{number}", title, columns, tuple(rows))


_COST = (Column("parameters"), Column("gflops"))
_AVERAGES = (Column("plcc"), Column("srcc"))
_MEAN = (Column("mean"),)
_FROM_AUTHENTIC = _correlations(SYNTHETIC + GENERATED, AUTHENTIC)
_FROM_SYNTHETIC = _correlations(AUTHENTIC + GENERATED, SYNTHETIC)
_FROM_GENERATED = _correlations(AUTHENTIC + SYNTHETIC, GENERATED)
TRANSFERS = _FROM_AUTHENTIC + _FROM_SYNTHETIC + _FROM_GENERATED
"""The 24 correlations of all transfers between the three domains."""

_TABLE1 = """
ILNIQE | - - .906 .902 .865 .822 .648 .521 .558 .534 .508 .508 .537 .523 .332 .294 .712 .713 .618
BRISQUE | - - .944 .929 .748 .812 .571 .626 .567 .528 .629 .629 .685 .681 .341 .303 .817 .809 .664
WaDIQaM | 5.24 2.43 .955 .960 .844 .852 .855 .835 .752 .739 .671 .682 .807 .804 .467 .455 - - .763
DBCNN | 15.31 16.51 .971 .968 .959 .946 .865 .816 .856 .851 .869 .851 .884 .875 .551 .545 .915
    .911 .852
TIQA | 23.68 - .965 .949 .838 .825 .858 .846 .855 .850 .861 .845 .903 .892 .581 .541 - - .829
MetaIQA | 13.24 1.82 .959 .960 .908 .899 .868 .856 .775 .762 .802 .835 .856 .887 .507 .540 - -
    .815
HyperIQA | 27.38 4.31 .966 .962 .942 .923 .858 .840 .845 .852 .882 .859 .917 .906 .602 .544 .915
    .911 .858
TReS | 152.45 20.03 .968 .969 .942 .922 .883 .863 .858 .859 .877 .846 .928 .915 .625 .554 - - .858
MUSIQ | 27.13 9.02 .911 .940 .893 .871 .815 .773 .872 .875 .746 .702 .928 .916 .661 .566 .921 .918
    .832
DEIQT | 24.04 5.41 .982 .980 .963 .946 .908 .892 .887 .889 .894 .875 .934 .921 .663 .571 .923 .919
    .884
LoDa | - 23.74 .979 .975 - - .901 .869 .936 .931 .899 .876 .944 .932 .679 .578 .928 .925 .882
ResNet-50 | 23.51 4.11 .879 .884 .861 .841 .747 .686 .784 .786 .868 .831 .908 .886 .313 .269 .907
    .907 .772
ResNet-101 | 42.50 7.83 .918 .921 .891 .867 .779 .727 .722 .719 .862 .824 .918 .904 .420 .347 .908
    .906 .790
ResNet-152 | 58.15 11.53 .926 .927 .923 .899 .765 .717 .764 .760 .859 .816 .919 .898 .433 .353
    .907 .907 .798
ViT-T | 5.52 1.26 .786 .792 .725 .717 .728 .699 .832 .836 .777 .730 .852 .852 .521 .461 .896 .896
    .756
ViT-S | 21.67 4.61 .900 .896 .832 .815 .873 .859 .893 .894 .831 .799 .922 .905 .539 .443 .919 .917
    .827
ViT-B | 85.80 17.58 .961 .955 .924 .912 .904 .905 .910 .908 .875 .837 .913 .895 .491 .452 .914
    .912 .854
Swin-T | 27.52 4.51 .879 .883 .865 .847 .937 .925 .923 .922 .880 .845 .901 .881 .476 .453 .922
    .919 .841
Swin-S | 48.84 8.77 .883 .896 .884 .874 .931 .918 .895 .894 .907 .884 .931 .914 .476 .433 .918
    .915 .847
Swin-B | 86.74 15.47 .945 .948 .941 .935 .942 .933 .934 .932 .892 .858 .945 .932 .507 .471 .923
    .921 .872
QMamba-T | 27.99 4.47 .959 .959 .940 .918 .951 .945 .934 .930 .898 .866 .941 .925 .675 .581 .934
    .929 .893
QMamba-S | 49.37 8.71 .962 .965 .921 .903 .957 .955 .934 .933 .903 .874 .943 .930 .677 .573 .932
    .927 .893
QMamba-B | 87.53 15.35 .960 .961 .908 .889 .953 .949 .935 .932 .908 .876 .943 .930 .675 .579 .933
    .929 .891
LQMamba-T | 29.87 4.44 .958 .959 .935 .916 .952 .950 .938 .923 .903 .863 .943 .928 .672 .574 .933
    .927 .892
LQMamba-S | 52.91 8.66 .962 .964 .933 .914 .955 .949 .941 .928 .907 .882 .946 .934 .676 .574 .933
    .929 .895
LQMamba-B | 93.79 15.30 .959 .951 .915 .889 .965 .964 .943 .941 .913 .888 .947 .933 .675 .582 .934
    .929 .896
"""
_TABLE2 = """
ResNet-50 | 23.51 4.11 .878 .853
ViT-S | 21.67 4.61 .891 .867
Swin-T | 27.52 4.51 .900 .883
DEIQT | 24.04 5.41 .895 .873
LoDa | 8.93 23.68 .876 .855
QMamba-T | 27.99 4.47 .905 .886
LQMamba-T | 29.87 4.44 .909 .888
"""
_TABLE3 = """
DEIQT | .583 .595 .558 .564 .802 .794 .698 .632 .518 .526 .579 .532 .580 .575 .512 .506 .601
LoDa | .600 .600 .733 .729 .808 .800 .715 .650 .527 .513 .558 .499 .592 .586 .564 .541 .622
Without_tuning | .535 .501 .726 .744 .789 .784 .726 .744 .553 .549 .595 .550 .600 .612 .675 .649
    .642
Lin_Probe(R) | .606 .581 .783 .811 .824 .804 .769 .695 .871 .848 .785 .751 .803 .788 .771 .723
    .755
Full tuning* | .936 .930 .941 .940 .885 .863 .910 .851 .943 .928 .899 .873 .880 .859 .910 .856
    .908
StylePrompt* | .920 .912 .949 .948 .877 .854 .908 .854 .932 .913 .888 .866 .880 .865 .906 .852
    .901
StylePrompt & R | .921 .913 .944 .945 .877 .853 .906 .847 .931 .912 .889 .860 .876 .857 .905 .849
    .898
"""
_TABLE4 = """
SSF | 6.1 .750 .735
Crossattn_Prompt | 12.17 .806 .772
Conv_Prompt | 28.33 .883 .856
StylePrompt | 3.83 .911 .890
"""
_TABLE5 = """
ResNet-50 | 23.51 4.11 .901 .840 .795 .797 .833
ResNet-101 | 42.50 7.83 .907 .847 .834 .831 .855
ResNet-152 | 58.15 11.53 .901 .832 .841 .834 .852
ViT-T | 5.52 1.26 .865 .787 .760 .766 .795
ViT-S | 21.67 4.61 .891 .819 .842 .822 .844
ViT-B | 85.80 17.58 .897 .830 .853 .835 .854
Swin-T | 27.52 4.51 .906 .847 .867 .844 .866
Swin-S | 48.84 8.77 .908 .849 .875 .857 .872
Swin-B | 86.74 15.47 .909 .852 .886 .863 .878
QMamba-T | 27.99 4.47 .913 .858 .888 .873 .883
QMamba-S | 49.37 8.71 .912 .858 .889 .875 .884
QMamba-B | 87.53 15.35 .914 .861 .886 .868 .882
LQMamba-T | 29.87 4.44 .914 .862 .884 .868 .882
LQMamba-S | 52.91 8.66 .913 .864 .888 .869 .884
LQMamba-B | 93.79 15.30 .915 .858 .888 .871 .883
"""
_TABLE6 = """
ResNet-50 | 4.11 .916 .908 .868 .869 .885 .841 .896 .869 .884 .813 .821 .815 .865
ViT-S | 4.61 .921 .918 .920 .917 .883 .828 .911 .892 .885 .822 .825 .824 .879
Swin-T | 4.51 .927 .927 .925 .921 .889 .863 .929 .918 .897 .840 .834 .828 .892
DEIQT | 4.68 .907 .906 .898 .895 .896 .855 .928 .906 .902 .841 .839 .835 .884
LoDa | 23.68 .895 .902 .907 .900 .872 .842 .900 .875 .874 .809 .809 .801 .866
QMamba-T | 4.47 .923 .923 .938 .932 .898 .863 .932 .917 .906 .851 .835 .830 .896
LQMamba-T | 4.44 .929 .926 .943 .939 .899 .863 .936 .921 .908 .853 .840 .828 .899
"""
_TABLE7 = """
DEIQT | .578 .505 .684 .638 .498 .464 .752 .750 .601
LoDa | .564 .500 .542 .548 .555 .524 .840 .833 .622
Without_tuning | .636 .587 .667 .637 .460 .425 .815 .838 .642
Lin_Probe(R) | .818 .792 .790 .761 .570 .540 .799 .826 .755
Full tuning* | .943 .927 .910 .878 .937 .932 .938 .933 .908
StylePrompt* | .929 .909 .902 .871 .918 .913 .926 .922 .901
StylePrompt & R | .929 .909 .899 .859 .918 .911 .926 .927 .898
"""
_TABLE8 = """
SSF | 6.1 .718 .700 .735 .769 .804 .801 .714 .667 .863 .829 .643 .598 .668 .675 .714 .685 .866
    .828 .730 .706 .724 .708 .820 .856 .743
Crossattn_Prompt | 12.17 .843 .830 .898 .897 .783 .752 .821 .706 .843 .816 .641 .612 .802 .782
    .833 .726 .842 .818 .644 .616 .831 .815 .894 .897 .789
Conv_Prompt | 28.33 .911 .910 .945 .946 .889 .820 .890 .825 .897 .881 .797 .761 .864 .827 .861
    .828 .898 .884 .805 .756 .901 .899 .932 .933 .869
StylePrompt | 3.83 .920 .912 .949 .948 .877 .854 .908 .854 .932 .913 .888 .866 .880 .865 .906 .852
    .929 .909 .902 .871 .918 .913 .926 .922 .901
"""
_TABLE9 = """
N=1 | .914 .907 .943 .944 .877 .850 .900 .833 .924 .906 .873 .846 .872 .850 .898 .834 .924 .907
    .890 .855 .904 .899 .940 .937 .8928
N=2 | .913 .905 .938 .939 .874 .851 .895 .837 .930 .912 .886 .853 .871 .851 .892 .835 .927 .905
    .902 .865 .911 .906 .926 .922 .8936
N=4 | .920 .913 .944 .949 .875 .851 .904 .840 .929 .913 .877 .849 .876 .857 .904 .842 .927 .904
    .885 .847 .913 .907 .925 .931 .8951
N=6 | .920 .912 .949 .948 .877 .854 .908 .854 .932 .913 .888 .866 .880 .865 .906 .852 .929 .909
    .902 .871 .918 .913 .926 .922 .9006
N=8 | .920 .914 .930 .934 .874 .851 .903 .841 .930 .912 .873 .843 .876 .854 .899 .841 .927 .906
    .889 .859 .918 .912 .922 .926 .8939
N=10 | .919 .913 .930 .936 .877 .856 .901 .840 .929 .910 .880 .849 .877 .853 .900 .840 .925 .906
    .889 .851 .918 .914 .923 .924 .8942
"""
_TABLE10 = """
(1,1) | .920 .912 .949 .948 .877 .854 .908 .854 .932 .913 .888 .866 .880 .865 .906 .852 .929 .909
    .902 .871 .918 .913 .926 .922 .901
(7,7) | .924 .917 .947 .948 .876 .852 .906 .844 .931 .912 .881 .848 .875 .857 .902 .843 .928 .906
    .890 .855 .921 .915 .927 .931 .897
(14,14) | .924 .917 .947 .948 .876 .852 .906 .844 .931 .912 .881 .848 .875 .857 .902 .843 .928
    .906 .890 .855 .921 .915 .927 .931 .897
(28,28) | .917 .909 .948 .947 .871 .849 .905 .847 .929 .909 .876 .845 .873 .855 .903 .841 .928
    .905 .895 .860 .902 .898 .932 .931 .895
layer_HW | .921 .914 .948 .948 .880 .854 .905 .844 .929 .909 .876 .850 .879 .859 .903 .844 .928
    .906 .891 .858 .913 .908 .920 .919 .896
"""

TABLES = {
    table.name: table
    for table in (
        _table(1, "Task-specific IQA", _COST + _correlations(TASKS) + _MEAN, _TABLE1),
        _table(2, "Universal IQA, averages", _COST + _AVERAGES, _TABLE2),
        _table(
            3,
            "Transfer from authentic and from synthetic distortions",
            _FROM_AUTHENTIC + _FROM_SYNTHETIC + _MEAN,
            _TABLE3,
        ),
        _table(4, "Tunings, averages over all transfers", _COST[:1] + _AVERAGES, _TABLE4),
        _table(
            5,
            "Task-specific IQA on generated images",
            _COST + _correlations(("agiqa3k", "aigciqa2023")) + _MEAN,
            _TABLE5,
        ),
        _table(6, "Universal IQA", _COST[1:] + _correlations(MIXED) + _MEAN, _TABLE6),
        _table(7, "Transfer from generated images", _FROM_GENERATED + _MEAN, _TABLE7),
        _table(8, "Tunings on every transfer", _COST[:1] + TRANSFERS + _MEAN, _TABLE8),
        _table(9, "Number of prompt components", TRANSFERS + _MEAN, _TABLE9),
        _table(10, "Spatial size of the prompts", TRANSFERS + _MEAN, _TABLE10),
    )
}
"""Every table by name."""
