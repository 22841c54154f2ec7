"""Arithmetic and paths on pytrees."""

from gradflow._missing_names import with_hints as _with_hints
from gradflow.tree._arithmetic import add as add
from gradflow.tree._arithmetic import add_scale as add_scale
from gradflow.tree._arithmetic import clip as clip
from gradflow.tree._arithmetic import conj as conj
from gradflow.tree._arithmetic import div as div
from gradflow.tree._arithmetic import mul as mul
from gradflow.tree._arithmetic import real as real
from gradflow.tree._arithmetic import scale as scale
from gradflow.tree._arithmetic import sub as sub
from gradflow.tree._arithmetic import where as where
from gradflow.tree._create import batch_shape as batch_shape
from gradflow.tree._create import cast as cast
from gradflow.tree._create import cast_like as cast_like
from gradflow.tree._create import full_like as full_like
from gradflow.tree._create import ones_like as ones_like
from gradflow.tree._create import zeros_like as zeros_like
from gradflow.tree._inspect import allclose as allclose
from gradflow.tree._inspect import dtype as dtype
from gradflow.tree._inspect import size as size
from gradflow.tree._map_params import map_params as map_params
from gradflow.tree._moments import bias_correction as bias_correction
from gradflow.tree._moments import update_infinity_moment as update_infinity_moment
from gradflow.tree._moments import update_moment as update_moment
from gradflow.tree._moments import update_moment_per_elem_norm as update_moment_per_elem_norm
from gradflow.tree._norm import norm as norm
from gradflow.tree._paths import get_by_path as get_by_path
from gradflow.tree._paths import map_with_path as map_with_path
from gradflow.tree._paths import paths as paths
from gradflow.tree._paths import set_by_path as set_by_path
from gradflow.tree._random import random_like as random_like
from gradflow.tree._random import split_key_like as split_key_like
from gradflow.tree._random import unwrap_random_key_data as unwrap_random_key_data
from gradflow.tree._reductions import max as max
from gradflow.tree._reductions import min as min
from gradflow.tree._reductions import sum as sum
from gradflow.tree._reductions import vdot as vdot
from gradflow.tree._search import NamedTupleKey as NamedTupleKey
from gradflow.tree._search import get as get
from gradflow.tree._search import get_all_with_path as get_all_with_path
from gradflow.tree._search import set as set

__all__ = [
    "NamedTupleKey",
    "add",
    "add_scale",
    "allclose",
    "batch_shape",
    "bias_correction",
    "cast",
    "cast_like",
    "clip",
    "conj",
    "div",
    "dtype",
    "full_like",
    "get",
    "get_all_with_path",
    "get_by_path",
    "map_params",
    "map_with_path",
    "max",
    "min",
    "mul",
    "norm",
    "ones_like",
    "paths",
    "random_like",
    "real",
    "scale",
    "set",
    "set_by_path",
    "size",
    "split_key_like",
    "sub",
    "sum",
    "unwrap_random_key_data",
    "update_infinity_moment",
    "update_moment",
    "update_moment_per_elem_norm",
    "vdot",
    "where",
    "zeros_like",
]

_with_hints(__name__)
