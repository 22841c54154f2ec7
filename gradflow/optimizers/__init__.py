"""Optimizers: one update rule per file."""

from gradflow._missing_names import with_hints as _with_hints
from gradflow.optimizers._acprop import acprop as acprop
from gradflow.optimizers._acprop import scale_by_acprop as scale_by_acprop
from gradflow.optimizers._adabelief import ScaleByBeliefState as ScaleByBeliefState
from gradflow.optimizers._adabelief import adabelief as adabelief
from gradflow.optimizers._adabelief import scale_by_belief as scale_by_belief
from gradflow.optimizers._adadelta import ScaleByAdaDeltaState as ScaleByAdaDeltaState
from gradflow.optimizers._adadelta import adadelta as adadelta
from gradflow.optimizers._adadelta import scale_by_adadelta as scale_by_adadelta
from gradflow.optimizers._adafactor import FactoredState as FactoredState
from gradflow.optimizers._adafactor import adafactor as adafactor
from gradflow.optimizers._adafactor import scale_by_factored_rms as scale_by_factored_rms
from gradflow.optimizers._adagrad import ScaleByRssState as ScaleByRssState
from gradflow.optimizers._adagrad import adagrad as adagrad
from gradflow.optimizers._adagrad import scale_by_rss as scale_by_rss
from gradflow.optimizers._adam import ScaleByAdamState as ScaleByAdamState
from gradflow.optimizers._adam import adam as adam
from gradflow.optimizers._adam import adamw as adamw
from gradflow.optimizers._adam import scale_by_adam as scale_by_adam
from gradflow.optimizers._adam_mini import adam_mini as adam_mini
from gradflow.optimizers._adam_mini import scale_by_adam_mini as scale_by_adam_mini
from gradflow.optimizers._adamax import adamax as adamax
from gradflow.optimizers._adamax import adamaxw as adamaxw
from gradflow.optimizers._adamax import scale_by_adamax as scale_by_adamax
from gradflow.optimizers._adamp import adamp as adamp
from gradflow.optimizers._adamp import sgdp as sgdp
from gradflow.optimizers._adamuon import AdaMuonState as AdaMuonState
from gradflow.optimizers._adamuon import adamuon as adamuon
from gradflow.optimizers._adamuon import scale_by_adamuon as scale_by_adamuon
from gradflow.optimizers._adan import ScaleByAdanState as ScaleByAdanState
from gradflow.optimizers._adan import adan as adan
from gradflow.optimizers._adan import scale_by_adan as scale_by_adan
from gradflow.optimizers._ademamix import ScaleByAdemamixState as ScaleByAdemamixState
from gradflow.optimizers._ademamix import ademamix as ademamix
from gradflow.optimizers._ademamix import scale_by_ademamix as scale_by_ademamix
from gradflow.optimizers._adopt import adopt as adopt
from gradflow.optimizers._adopt import scale_by_adopt as scale_by_adopt
from gradflow.optimizers._amsgrad import ScaleByAmsgradState as ScaleByAmsgradState
from gradflow.optimizers._amsgrad import amsgrad as amsgrad
from gradflow.optimizers._amsgrad import scale_by_amsgrad as scale_by_amsgrad
from gradflow.optimizers._apollo import ScaleByApolloState as ScaleByApolloState
from gradflow.optimizers._apollo import apollo as apollo
from gradflow.optimizers._apollo import scale_by_apollo as scale_by_apollo
from gradflow.optimizers._asgd import AsgdState as AsgdState
from gradflow.optimizers._asgd import asgd as asgd
from gradflow.optimizers._bsam import BSAMState as BSAMState
from gradflow.optimizers._bsam import bsam as bsam
from gradflow.optimizers._came import ScaleByCameState as ScaleByCameState
from gradflow.optimizers._came import came as came
from gradflow.optimizers._came import scale_by_came as scale_by_came
from gradflow.optimizers._cautious import cautious_adamw as cautious_adamw
from gradflow.optimizers._cautious import cautious_lion as cautious_lion
from gradflow.optimizers._cocob import COCOBState as COCOBState
from gradflow.optimizers._cocob import cocob as cocob
from gradflow.optimizers._cocob import scale_by_cocob as scale_by_cocob
from gradflow.optimizers._dadapt_adamw import DAdaptAdamWState as DAdaptAdamWState
from gradflow.optimizers._dadapt_adamw import dadapt_adamw as dadapt_adamw
from gradflow.optimizers._descriptions import complete_docstrings as _complete_docstrings
from gradflow.optimizers._dion2 import Dion2State as Dion2State
from gradflow.optimizers._dion2 import dion2 as dion2
from gradflow.optimizers._dion2 import scale_by_dion2 as scale_by_dion2
from gradflow.optimizers._dog import DoGState as DoGState
from gradflow.optimizers._dog import dog as dog
from gradflow.optimizers._dog import scale_by_dog as scale_by_dog
from gradflow.optimizers._dowg import DoWGState as DoWGState
from gradflow.optimizers._dowg import dowg as dowg
from gradflow.optimizers._dowg import scale_by_dowg as scale_by_dowg
from gradflow.optimizers._dpsgd import dpsgd as dpsgd
from gradflow.optimizers._fista import FistaInfo as FistaInfo
from gradflow.optimizers._fista import FistaState as FistaState
from gradflow.optimizers._fista import fista as fista
from gradflow.optimizers._for_matrices import for_matrices as for_matrices
from gradflow.optimizers._fromage import fromage as fromage
from gradflow.optimizers._fromage import shrink_by_learning_rate as shrink_by_learning_rate
from gradflow.optimizers._galore import GaLoreDimensionNumbers as GaLoreDimensionNumbers
from gradflow.optimizers._galore import GaLoreState as GaLoreState
from gradflow.optimizers._galore import galore as galore
from gradflow.optimizers._galore import scale_by_galore as scale_by_galore
from gradflow.optimizers._kron import KronState as KronState
from gradflow.optimizers._kron import kron as kron
from gradflow.optimizers._kron import scale_by_kron as scale_by_kron
from gradflow.optimizers._lamb import lamb as lamb
from gradflow.optimizers._lamb import lars as lars
from gradflow.optimizers._laprop import laprop as laprop
from gradflow.optimizers._laprop import scale_by_laprop as scale_by_laprop
from gradflow.optimizers._layerwise_dog import (
    ScaleByDistanceOverGradientsState as ScaleByDistanceOverGradientsState,
)
from gradflow.optimizers._layerwise_dog import (
    scale_by_distance_over_gradients as scale_by_distance_over_gradients,
)
from gradflow.optimizers._lbfgs import ScaleByLBFGSState as ScaleByLBFGSState
from gradflow.optimizers._lbfgs import lbfgs as lbfgs
from gradflow.optimizers._lbfgs import scale_by_lbfgs as scale_by_lbfgs
from gradflow.optimizers._lbfgsb import LBFGSBState as LBFGSBState
from gradflow.optimizers._lbfgsb import lbfgsb as lbfgsb
from gradflow.optimizers._lion import ScaleByLionState as ScaleByLionState
from gradflow.optimizers._lion import lion as lion
from gradflow.optimizers._lion import scale_by_lion as scale_by_lion
from gradflow.optimizers._madgrad import MadgradState as MadgradState
from gradflow.optimizers._madgrad import madgrad as madgrad
from gradflow.optimizers._madgrad import scale_by_madgrad as scale_by_madgrad
from gradflow.optimizers._mars import mars as mars
from gradflow.optimizers._momo import MomoState as MomoState
from gradflow.optimizers._momo import momo as momo
from gradflow.optimizers._momo_adam import MomoAdamState as MomoAdamState
from gradflow.optimizers._momo_adam import momo_adam as momo_adam
from gradflow.optimizers._muon import MuonDimensionNumbers as MuonDimensionNumbers
from gradflow.optimizers._muon import MuonState as MuonState
from gradflow.optimizers._muon import muon as muon
from gradflow.optimizers._muon import scale_by_muon as scale_by_muon
from gradflow.optimizers._muon import scale_by_shape as scale_by_shape
from gradflow.optimizers._muown import MuownNeurons as MuownNeurons
from gradflow.optimizers._muown import MuownState as MuownState
from gradflow.optimizers._muown import muown as muown
from gradflow.optimizers._muown import step_by_muown as step_by_muown
from gradflow.optimizers._nadam import ScaleByNadamState as ScaleByNadamState
from gradflow.optimizers._nadam import nadam as nadam
from gradflow.optimizers._nadam import nadamw as nadamw
from gradflow.optimizers._nadam import scale_by_nadam as scale_by_nadam
from gradflow.optimizers._normuon import NeuronNormState as NeuronNormState
from gradflow.optimizers._normuon import normuon as normuon
from gradflow.optimizers._normuon import scale_by_neuron_norm as scale_by_neuron_norm
from gradflow.optimizers._novograd import ScaleByNovogradState as ScaleByNovogradState
from gradflow.optimizers._novograd import novograd as novograd
from gradflow.optimizers._novograd import scale_by_novograd as scale_by_novograd
from gradflow.optimizers._optimistic import ScaleByOptimisticGradientState as ScaleByOptimisticGradientState
from gradflow.optimizers._optimistic import optimistic_adam_v2 as optimistic_adam_v2
from gradflow.optimizers._optimistic import optimistic_gradient_descent as optimistic_gradient_descent
from gradflow.optimizers._optimistic import scale_by_optimistic_gradient as scale_by_optimistic_gradient
from gradflow.optimizers._orthogonalize import orthogonalize as orthogonalize
from gradflow.optimizers._polyak import polyak_sgd as polyak_sgd
from gradflow.optimizers._polyak import scale_by_polyak as scale_by_polyak
from gradflow.optimizers._prodigy import ProdigyState as ProdigyState
from gradflow.optimizers._prodigy import prodigy as prodigy
from gradflow.optimizers._radam import radam as radam
from gradflow.optimizers._radam import scale_by_radam as scale_by_radam
from gradflow.optimizers._rmsprop import ScaleByRmsState as ScaleByRmsState
from gradflow.optimizers._rmsprop import ScaleByRmsWithCountState as ScaleByRmsWithCountState
from gradflow.optimizers._rmsprop import rmsprop as rmsprop
from gradflow.optimizers._rmsprop import scale_by_rms as scale_by_rms
from gradflow.optimizers._rprop import ScaleByRpropState as ScaleByRpropState
from gradflow.optimizers._rprop import rprop as rprop
from gradflow.optimizers._rprop import scale_by_rprop as scale_by_rprop
from gradflow.optimizers._schedule_free import schedule_free_adamw as schedule_free_adamw
from gradflow.optimizers._schedule_free import schedule_free_sgd as schedule_free_sgd
from gradflow.optimizers._scion import ScionState as ScionState
from gradflow.optimizers._scion import scale_by_scion as scale_by_scion
from gradflow.optimizers._scion import scion as scion
from gradflow.optimizers._sgd import noisy_sgd as noisy_sgd
from gradflow.optimizers._sgd import sgd as sgd
from gradflow.optimizers._shampoo import ShampooState as ShampooState
from gradflow.optimizers._shampoo import scale_by_shampoo as scale_by_shampoo
from gradflow.optimizers._shampoo import shampoo as shampoo
from gradflow.optimizers._sign import sign_sgd as sign_sgd
from gradflow.optimizers._sign import signum as signum
from gradflow.optimizers._simplified_ademamix import (
    ScaleBySimplifiedAdEMAMixState as ScaleBySimplifiedAdEMAMixState,
)
from gradflow.optimizers._simplified_ademamix import (
    scale_by_simplified_ademamix as scale_by_simplified_ademamix,
)
from gradflow.optimizers._simplified_ademamix import simplified_ademamix as simplified_ademamix
from gradflow.optimizers._sm3 import ScaleBySM3State as ScaleBySM3State
from gradflow.optimizers._sm3 import scale_by_sm3 as scale_by_sm3
from gradflow.optimizers._sm3 import sm3 as sm3
from gradflow.optimizers._soap import SoapState as SoapState
from gradflow.optimizers._soap import scale_by_soap as scale_by_soap
from gradflow.optimizers._soap import soap as soap
from gradflow.optimizers._soap_muon import soap_muon as soap_muon
from gradflow.optimizers._sophia import HutchinsonState as HutchinsonState
from gradflow.optimizers._sophia import SophiaState as SophiaState
from gradflow.optimizers._sophia import hutchinson_estimator_diag_hessian as hutchinson_estimator_diag_hessian
from gradflow.optimizers._sophia import scale_by_sophia as scale_by_sophia
from gradflow.optimizers._sophia import sophia as sophia
from gradflow.optimizers._splus import SPlusState as SPlusState
from gradflow.optimizers._splus import scale_by_splus as scale_by_splus
from gradflow.optimizers._splus import splus as splus
from gradflow.optimizers._stable_adamw import scale_by_stable_adam as scale_by_stable_adam
from gradflow.optimizers._stable_adamw import stable_adamw as stable_adamw
from gradflow.optimizers._stddev import ScaleByRStdDevState as ScaleByRStdDevState
from gradflow.optimizers._stddev import ScaleByRStdDevWithCountState as ScaleByRStdDevWithCountState
from gradflow.optimizers._stddev import scale_by_stddev as scale_by_stddev
from gradflow.optimizers._yogi import scale_by_yogi as scale_by_yogi
from gradflow.optimizers._yogi import yogi as yogi

__all__ = [
    "AdaMuonState",
    "AsgdState",
    "BSAMState",
    "COCOBState",
    "DAdaptAdamWState",
    "Dion2State",
    "DoGState",
    "DoWGState",
    "FactoredState",
    "FistaInfo",
    "FistaState",
    "GaLoreDimensionNumbers",
    "GaLoreState",
    "HutchinsonState",
    "KronState",
    "LBFGSBState",
    "MadgradState",
    "MomoAdamState",
    "MomoState",
    "MuonDimensionNumbers",
    "MuonState",
    "MuownNeurons",
    "MuownState",
    "NeuronNormState",
    "ProdigyState",
    "SPlusState",
    "ScaleByAdaDeltaState",
    "ScaleByAdamState",
    "ScaleByAdanState",
    "ScaleByAdemamixState",
    "ScaleByAmsgradState",
    "ScaleByApolloState",
    "ScaleByBeliefState",
    "ScaleByCameState",
    "ScaleByDistanceOverGradientsState",
    "ScaleByLBFGSState",
    "ScaleByLionState",
    "ScaleByNadamState",
    "ScaleByNovogradState",
    "ScaleByOptimisticGradientState",
    "ScaleByRStdDevState",
    "ScaleByRStdDevWithCountState",
    "ScaleByRmsState",
    "ScaleByRmsWithCountState",
    "ScaleByRpropState",
    "ScaleByRssState",
    "ScaleBySM3State",
    "ScaleBySimplifiedAdEMAMixState",
    "ScionState",
    "ShampooState",
    "SoapState",
    "SophiaState",
    "acprop",
    "adabelief",
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adam_mini",
    "adamax",
    "adamaxw",
    "adamp",
    "adamuon",
    "adamw",
    "adan",
    "ademamix",
    "adopt",
    "amsgrad",
    "apollo",
    "asgd",
    "bsam",
    "came",
    "cautious_adamw",
    "cautious_lion",
    "cocob",
    "dadapt_adamw",
    "dion2",
    "dog",
    "dowg",
    "dpsgd",
    "fista",
    "for_matrices",
    "fromage",
    "galore",
    "hutchinson_estimator_diag_hessian",
    "kron",
    "lamb",
    "laprop",
    "lars",
    "lbfgs",
    "lbfgsb",
    "lion",
    "madgrad",
    "mars",
    "momo",
    "momo_adam",
    "muon",
    "muown",
    "nadam",
    "nadamw",
    "noisy_sgd",
    "normuon",
    "novograd",
    "optimistic_adam_v2",
    "optimistic_gradient_descent",
    "orthogonalize",
    "polyak_sgd",
    "prodigy",
    "radam",
    "rmsprop",
    "rprop",
    "scale_by_acprop",
    "scale_by_adadelta",
    "scale_by_adam",
    "scale_by_adam_mini",
    "scale_by_adamax",
    "scale_by_adamuon",
    "scale_by_adan",
    "scale_by_ademamix",
    "scale_by_adopt",
    "scale_by_amsgrad",
    "scale_by_apollo",
    "scale_by_belief",
    "scale_by_came",
    "scale_by_cocob",
    "scale_by_dion2",
    "scale_by_distance_over_gradients",
    "scale_by_dog",
    "scale_by_dowg",
    "scale_by_factored_rms",
    "scale_by_galore",
    "scale_by_kron",
    "scale_by_laprop",
    "scale_by_lbfgs",
    "scale_by_lion",
    "scale_by_madgrad",
    "scale_by_muon",
    "scale_by_nadam",
    "scale_by_neuron_norm",
    "scale_by_novograd",
    "scale_by_optimistic_gradient",
    "scale_by_polyak",
    "scale_by_radam",
    "scale_by_rms",
    "scale_by_rprop",
    "scale_by_rss",
    "scale_by_scion",
    "scale_by_shampoo",
    "scale_by_shape",
    "scale_by_simplified_ademamix",
    "scale_by_sm3",
    "scale_by_soap",
    "scale_by_sophia",
    "scale_by_splus",
    "scale_by_stable_adam",
    "scale_by_stddev",
    "scale_by_yogi",
    "schedule_free_adamw",
    "schedule_free_sgd",
    "scion",
    "sgd",
    "sgdp",
    "shampoo",
    "shrink_by_learning_rate",
    "sign_sgd",
    "signum",
    "simplified_ademamix",
    "sm3",
    "soap",
    "soap_muon",
    "sophia",
    "splus",
    "stable_adamw",
    "step_by_muown",
    "yogi",
]

_with_hints(__name__)
_complete_docstrings(globals())
