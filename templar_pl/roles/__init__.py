"""Commands other than Lightning's, each assembled from the rooms below."""
