"""From a `ModelSpec` to the assets of its life: training set, model, evaluation, champion,
deployment, predictions, drift and performance. Adding a model changes nothing here.
"""
