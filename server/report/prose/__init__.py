"""What the report says in sentences: methods, answers, limits, checklists and model card, each drawn from the document."""
