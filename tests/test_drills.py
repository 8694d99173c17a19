"""Short forms of the drills of the app: the same functions on the tiny model, with fewer requests."""

import httpx
import pytest
from test_app import serve

from tests.drills import abuse, load
from tests.drills.serving import ask


@pytest.fixture(scope="module")
def url(tiny_shapes):
    ui, address = serve(tiny_shapes)
    yield address
    ui.close(verbose=False)


def test_nobody_in_a_crowd_gets_the_image_of_another(url, tiny_shapes):
    load.drill_crowd(url, tiny_shapes, num_clients=6, num_jobs=2)


def test_the_next_client_is_served_after_one_that_left(url, tiny_shapes):
    load.drill_leavers(url, tiny_shapes, num_leavers=2)


def test_a_wrong_image_would_be_found(url, tiny_shapes):
    one, other = load.make_requests(2, 2)
    with httpx.Client(timeout=60) as client:
        kind, answer = ask(client, url, *load.as_data(one))
        assert kind == "complete"
        assert load.is_as_expected(client, answer, one, tiny_shapes)
        assert not load.is_as_expected(client, answer, other, tiny_shapes)
        assert not load.is_as_expected(client, answer[1::-1], one, tiny_shapes)


def test_malformed_requests_do_not_reach_the_model(url, tiny_shapes):
    requests = abuse.make_malformed()
    assert len(requests) + len(abuse.BAD_BODIES) >= 500
    abuse.drill_requests(url, tiny_shapes, requests[:: len(requests) // 40])


def test_a_call_of_the_model_would_be_counted(url, tiny_shapes):
    with httpx.Client(timeout=60) as client, abuse.count_calls(tiny_shapes) as calls:
        ask(client, url, *abuse.GOOD)
    assert calls  # of the UNet, at least: the prompt may have been encoded before


def test_no_file_is_given_out(url):
    assert len(abuse.PATHS) * len(abuse.ROUTES) >= 50
    abuse.drill_files(url, abuse.PATHS[::5])
