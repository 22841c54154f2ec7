"""The field's names for the states of stages without state."""

from gradflow._types import EmptyState

AdaptiveGradClipState = EmptyState
AddDecayedWeightsState = EmptyState
ClipByGlobalNormState = EmptyState
ClipState = EmptyState
NonNegativeParamsState = EmptyState
NormalizeState = EmptyState
ScaleByTrustRatioState = EmptyState
ScaleState = EmptyState
