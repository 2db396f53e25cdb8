"""A Django project's own tests, as pytest runs them; the project is one of the recorded apps."""

import os
import pathlib

import django
import psycopg
import pytest
from django.test import Client

SCHEMA = pathlib.Path(__file__).parent.parent / "recorded" / "schema.sql"


@pytest.fixture(scope="session")
def client():
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS visits, posts, authors")
        connection.execute(SCHEMA.read_text())
    django.setup()
    return Client()


@pytest.mark.parametrize("path", ["/about", "/posts/lazy", "/posts/eager", "/posts/page?page=2"])
def test_it_answers(client, path):
    assert client.get(path).status_code == 200
