"""The files that pages load from the edge."""

import re

from raw_http import head, responses, serving
from tokenwire_edge.app import create_app
from tokenwire_edge.settings import Settings


def test_without_the_playground_the_browser_client_is_served_and_nothing_of_the_page():
    with serving(create_app(Settings(playground=False))) as edge:

        def get(path):
            with edge.connection(head(path, "GET", "connection: close")) as connection:
                [response] = responses(connection)
            return response

        found, missing = set(), {"tokenwire.js", "tokenwire.d.ts"}
        while missing:
            found.add(name := missing.pop())
            response = get(f"/static/{name}")
            assert response.status == 200, name
            if name.endswith(".ts"):
                assert response.headers["content-type"] == "application/typescript"
            missing |= set(re.findall(r'from "\./(.+)"', response.body.decode())) - found
        assert len(found) > 2
        for path in ("/", "/static/index.html", "/static/playground.js"):
            assert get(path).problem == (404, "NOT_FOUND")
