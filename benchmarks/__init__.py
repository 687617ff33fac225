"""How fast is it? Every figure beside its reference and its goal: ``make bench``."""
