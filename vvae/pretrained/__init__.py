"""Published weights as (model, params); one file for each family of models."""
