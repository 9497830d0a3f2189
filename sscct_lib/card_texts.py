"""What stands on every card of a saved model, and where the cards of models on features lie."""

FOLDER = "tabular"  # within the folder of models
USE = "Research on groups of patients: the risk of death from any cause within some years of a chest CT."
LIMITS = (
    "Not validated outside the study that it was trained on, and not a medical device. How well it predicts there is "
    "in the performance table of the same run; scans of other scanners, kernels or patients may differ."
)
