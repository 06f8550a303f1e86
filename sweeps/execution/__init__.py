"""Run trials through Ray Tune, and decide what each may use of a machine or cluster."""
