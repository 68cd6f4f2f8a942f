"""Published weights as (model, params); one module per family of models."""
