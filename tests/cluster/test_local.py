"""Clusters on this machine, real ones."""

import time

import psutil
import pytest

from crdist.errors import RunError
from crdist_cluster import available_cores, available_memory, connect, local_client


def test_a_local_cluster_is_as_asked_and_listens_on_loopback_alone():
    with local_client(2, 3, 500 * 1024**2) as client:
        workers = client.scheduler_info(n_workers=-1)["workers"]
        assert [worker["nthreads"] for worker in workers.values()] == [3, 3]
        assert {worker["memory_limit"] for worker in workers.values()} == {500 * 1024**2}
        assert client.submit(sum, [1, 2]).result() == 3
        assert set(client.run(lambda: __import__("os").environ["OMP_NUM_THREADS"]).values()) == {"1"}
        pids = [psutil.Process().pid, *client.run(lambda: __import__("os").getpid()).values()]
        listening = [
            connection.laddr.ip
            for pid in pids
            for connection in psutil.Process(pid).net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        ]
        assert listening
        assert set(listening) == {"127.0.0.1"}
    assert not any(psutil.pid_exists(pid) for pid in pids[1:])


def test_a_worker_whose_nanny_has_given_up_is_replaced():
    with local_client(1, 1, 500 * 1024**2) as client:
        (pid,) = client.run(lambda: __import__("os").getpid()).values()
        (nanny,) = client.cluster.workers.values()
        client.cluster.sync(nanny.close)
        deadline = time.monotonic() + 120
        while not client.nthreads() and time.monotonic() < deadline:
            time.sleep(0.1)
        (other,) = client.run(lambda: __import__("os").getpid()).values()
    assert other != pid


def test_a_scheduler_that_does_not_answer_is_named():
    with (
        pytest.raises(RunError, match=r"scheduler tcp://127\.0\.0\.1:9: does not answer .*is it running"),
        connect("tcp://127.0.0.1:9"),
    ):
        pass


def test_what_is_no_address_is_said_to_be_none(tmp_path):
    with pytest.raises(RunError, match="scheduler 'foo': give an address such as tcp://"), connect("foo"):
        pass
    (tmp_path / "s.json").write_text("{}")
    with pytest.raises(RunError, match=r"s\.json: cannot be read .*is it one of a Dask scheduler"):
        connect(str(tmp_path / "s.json")).__enter__()


def test_a_cluster_without_workers_is_refused():
    from distributed import LocalCluster

    with (
        LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster,
        pytest.raises(RunError, match="has no workers"),
        connect(cluster.scheduler_address),
    ):
        pass


def test_what_the_machine_has():
    assert available_cores() >= 1
    assert available_memory() > 100 * 1024**2
