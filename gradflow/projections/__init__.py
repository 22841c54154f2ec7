"""Euclidean projections of pytrees: the nearest point of a set.

`argmin_p |x - p|^2` over `p` in the set. For every function here:

- The tree is one long vector. With `axis`, an axis or a tuple of them, each vector along these axes of each
  leaf is projected separately. Plans of transport are always matrices of one leaf.
- Leaves are real and floating point; integers raise. `None` leaves stay `None`, and a tree without
  elements is returned unchanged. Each leaf keeps its dtype; below float32 the arithmetic is float32.
- A negative `scale` describes an empty set. A number raises `ValueError`; a jax array, whose value may
  be traced, gives NaN. A box with `lower > upper` raises likewise, but jax arrays give `upper`.
- Gradients are finite everywhere. A point on the boundary counts as inside, with the derivative of the
  identity. A coordinate that a simplex or an l1 ball has just set to zero counts as zeroed.
- Where several points are nearest, as for the center of a sphere, each function documents its choice.
  The derivative there is taken with that choice held fixed.
- All sets are convex but the two spheres. Projected gradients onto a sphere may end in a point that is the
  best only nearby.
"""

from gradflow._missing_names import with_hints as _with_hints
from gradflow.projections._boxes import (
    projection_box as projection_box,
)
from gradflow.projections._boxes import (
    projection_hypercube as projection_hypercube,
)
from gradflow.projections._boxes import (
    projection_linf_ball as projection_linf_ball,
)
from gradflow.projections._boxes import (
    projection_non_negative as projection_non_negative,
)
from gradflow.projections._euclidean import (
    projection_affine_set as projection_affine_set,
)
from gradflow.projections._euclidean import (
    projection_halfspace as projection_halfspace,
)
from gradflow.projections._euclidean import (
    projection_hyperplane as projection_hyperplane,
)
from gradflow.projections._euclidean import (
    projection_l2_ball as projection_l2_ball,
)
from gradflow.projections._euclidean import (
    projection_l2_sphere as projection_l2_sphere,
)
from gradflow.projections._euclidean import (
    projection_vector as projection_vector,
)
from gradflow.projections._polytopes import (
    projection_birkhoff as projection_birkhoff,
)
from gradflow.projections._polytopes import (
    projection_transport as projection_transport,
)
from gradflow.projections._section import (
    projection_box_section as projection_box_section,
)
from gradflow.projections._simplex import (
    projection_l1_ball as projection_l1_ball,
)
from gradflow.projections._simplex import (
    projection_l1_sphere as projection_l1_sphere,
)
from gradflow.projections._simplex import (
    projection_simplex as projection_simplex,
)

__all__ = [
    "projection_affine_set",
    "projection_birkhoff",
    "projection_box",
    "projection_box_section",
    "projection_halfspace",
    "projection_hypercube",
    "projection_hyperplane",
    "projection_l1_ball",
    "projection_l1_sphere",
    "projection_l2_ball",
    "projection_l2_sphere",
    "projection_linf_ball",
    "projection_non_negative",
    "projection_simplex",
    "projection_transport",
    "projection_vector",
]

_with_hints(__name__)
