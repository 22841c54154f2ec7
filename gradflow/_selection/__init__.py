"""Which leaves: absent leaves, named leaves, selectors, masks and labels, partial trees."""
