"""The evidence of a choice: HTML report, figures and model card."""
