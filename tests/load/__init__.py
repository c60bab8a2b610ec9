"""The gateway under load: how fast it takes jobs and answers, against a bare route; thousands of event streams."""
