"""A simulated online test: a cascade serves simulated users, and arms are compared.

Nothing here is an online test of real users. `responses` says what a simulated user does with an
item that is shown, `exposures` has the logs on which that is fitted, `cascade` retrieves and
reranks, `online` runs the test, `experiment` has its statistics, and `recorded` the tests that
online/ defines and measurements/ holds.
"""
