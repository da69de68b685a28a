"""Services and the model that tests share."""

pytest_plugins = ["tests.fixtures_kafka", "tests.fixtures_services", "tests.fixtures_model", "tests.fixtures_secured"]
