"""The measures of collapse that the report shows; their values come from the runs. A sample is a cloud or a voxel."""

from __future__ import annotations

from image2point.tasks.display import Quantity

QUANTITIES = (
    Quantity("nc1", "NC1", "within-class variability, tr(Σ_W\u00a0Σ_B†)\u00a0/\u00a0C", logarithmic=True),
    Quantity("cdnv", "CDNV", "class-distance normalised variance, mean over pairs of classes", logarithmic=True),
    Quantity("ncc_accuracy", "NCC accuracy", "share of samples nearest to their own class mean in train", percent=True),
    Quantity("nc2_equinorm", "NC2, equal norms", "spread of the lengths of the centred class means: s.d. / mean"),
    Quantity("nc2_equiangle", "NC2, equal angles", "distance of cosines between class means from −1/(C\u00a0−\u00a01)"),
    Quantity("nc2_etf", "NC2, simplex", "distance of the Gram matrix of the class means from the simplex frame"),
    Quantity("nc3", "NC3", "distance of classifier rows from the class means, both normalised"),
    Quantity("nc4", "NC4", "share of samples on which network and nearest class mean disagree", percent=True),
    Quantity("nc1_trace_ratio", "NC1, trace ratio", "tr Σ_W / tr Σ_B", logarithmic=True),
    Quantity("cdnv_corrected", "CDNV, corrected", "without the bias of few samples per class", logarithmic=True),
    Quantity(
        "cdnv_corrected_undefined",
        "CDNV, corrected: pairs left out",
        "too close or too few samples",
        count=True,
    ),
    Quantity("cdnv_median", "CDNV, median", "over pairs of classes, without the bias of few samples", logarithmic=True),
    Quantity(
        "nc1_trace_ratio_corrected", "NC1, trace ratio, corrected", "without the bias of few samples", logarithmic=True
    ),
    Quantity("min_class_distance", "Least class distance", "between any two class means"),
    Quantity("nc2_w_equinorm", "NC2 of the classifier, equal norms", "as above, of the classifier's rows"),
    Quantity("nc2_w_equiangle", "NC2 of the classifier, equal angles", "as above, of the classifier's rows"),
    Quantity("nc2_w_etf", "NC2 of the classifier, simplex", "as above, of the classifier's rows"),
    Quantity("nc1_raw", "NC1, not divided by C", "tr(Σ_W\u00a0Σ_B†)", logarithmic=True),
    Quantity("samples", "Samples measured", "", count=True),
    Quantity("absent", "Absent classes", "classes without a sample, left out of every mean", count=True),
    Quantity(
        "contributing", "Classes that vary", "with two samples or more: those that NC1 and CDNV speak for", count=True
    ),
    Quantity("singletons", "Classes with one sample", "without variance of their own", count=True),
)
PLOTTED = QUANTITIES[:9]
SPLITS = ("train", "test")
