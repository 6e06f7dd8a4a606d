import json

from hybrid_infer.testing import Reply


def test_an_address_below_the_servers_root_is_refused_with_the_root(run, echo):
    url = f"{echo.url}/v1"
    done = run("status", "--url", url)
    assert done.code == 1
    assert done.err == (
        f"error: {url} is not the address of a hybrid-infer server: give its root, {echo.url}\n"
    )
    error = json.loads(run("status", "--url", url, "--json").out)["error"]
    assert (error["type"], error["next_steps"]) == ("NotThisServer", [])


def test_another_server_will_not_be_this_one_later(run, echo):
    other = f"error: what answers at {echo.url} is not hybrid-infer serve\n"
    assert run("status", "--url", echo.url).err == other  # which has no /status
    echo.enqueue(Reply(json={"up": True}))
    done = run("status", "--url", echo.url)
    assert (done.code, done.err) == (1, other)


def test_a_server_that_is_gone_or_fails_may_work_later(run, echo):
    echo.enqueue(Reply(status=503))
    assert "may work later" in run("status", "--url", echo.url).err
    echo.go_down()
    done = run("status", "--url", echo.url)
    assert done.code == 3
    assert "no server answers" in done.err
    assert "may work later" in done.err
