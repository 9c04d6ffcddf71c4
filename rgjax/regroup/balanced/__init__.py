"""Exact balanced K-means: clusters of equal sizes, or of a least size."""

from rgjax.regroup.balanced.kmeans import balanced_kmeans as balanced_kmeans
