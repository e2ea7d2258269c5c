"""The software-defined assets: one folder per domain, and `lifecycle` that turns a `ModelSpec` into
training set, model, evaluation, champion, deployment, predictions, drift and performance.
"""
