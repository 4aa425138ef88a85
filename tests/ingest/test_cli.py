# SPDX-License-Identifier: Apache-2.0
"""The command line: a mistake is a plain sentence and an exit status, never a traceback."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from ingest import pki
from ingest.store import province
from tests.ingest.test_registry import AREAS, DEVICES, GATEWAYS, add_nights, write
from tests.services import until

COMMAND = (sys.executable, "-m", "ingest")
REVISION = "SELECT registry_revision FROM installation"


@dataclass(frozen=True, slots=True)
class Installation:
    """A configured folder; commands run in it."""

    folder: Path
    dsn: str

    def run(
        self, *arguments: str | Path, environ: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*COMMAND, *map(str, arguments)],
            cwd=self.folder,
            env=self.environ | dict(environ or {}),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def ok(self, *arguments: str | Path) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return done.stdout

    @property
    def environ(self) -> dict[str, str]:
        """Ours, with the sources found from anywhere and no width to wrap usage at."""
        return os.environ | {"PYTHONPATH": str(Path.cwd()), "COLUMNS": "200", "NO_COLOR": "1"}


@pytest.fixture
def installation(database: str, tmp_path: Path) -> Installation:
    (tmp_path / "linli.toml").write_text(
        f"""
        database.dsn = {json.dumps(database)}
        broker.ca = "pki/ca.crt"
        ingest.certificates = "pki/services"
        pki.ca_certificate = "pki/ca.crt"
        pki.ca_key = "pki/ca.key"
        """
    )
    write(tmp_path, {"areas": AREAS, "gateways": GATEWAYS, "devices": DEVICES})
    made = Installation(tmp_path, database)
    made.ok("migrate")
    return made


@pytest.fixture
def registered(installation: Installation) -> Installation:
    installation.ok("registry", "import", "areas.csv", "gateways.csv", "devices.csv")
    return installation


def test_migrating_again_has_nothing_to_do(installation: Installation) -> None:
    assert installation.ok("migrate") == "nothing to do\n"


def test_import_says_what_it_did(installation: Installation) -> None:
    names = ("areas.csv", "gateways.csv", "devices.csv")
    dry = installation.ok("registry", "import", *names, "--dry-run")
    assert dry.endswith("9 would be added, 0 would be changed, 0 unchanged\n")
    done = installation.ok("registry", "import", *names)
    assert done.endswith("9 added, 0 changed, 0 unchanged\n")


def test_import_names_every_mistake(installation: Installation) -> None:
    (installation.folder / "areas.csv").write_text(
        AREAS.replace("Asia/Urumqi", "Mars").replace("1200", "many")
    )
    done = installation.run("registry", "import", "areas.csv")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "areas.csv:3: households: value 'many': expected a whole number from 0 to 2147483647",
        "areas.csv:5: time_zone: value 'Mars': expected an IANA time zone, such as Asia/Shanghai",
    ]


def test_import_names_what_cannot_be_and_applies_nothing(registered: Installation) -> None:
    """What would make numbers wrong for good, each in a file of its own, beside good ones."""
    write(
        registered.folder,
        {
            "good": "gateway,community,name\ngw-c01-a,c01,新名\n",
            "overlap": "area,from,to,residents\nc02,2026-01-01,2026-07-01,9\nc02,2026-06-01,,9\n",
            "nobody": "area,from,residents\nc01,2026-01-01,0\n",
            "dark": "area,parent,level,name,programme\nc02,city,community,二社区,sun+720-720\n",
            "lamp": "device,kind,gateway,area,programme\n"
            "c01-lamp-001,lamp,gw-c01-a,c01,sun+720-720\n",
            "power": "device,kind,gateway,area,rated_power_w\nc01-lamp-002,lamp,gw-c01-a,c01,-60\n",
            "circle": "area,parent,level,name\nd1,d1,district,一区\n",
        },
    )
    with psycopg.connect(registered.dsn) as conn:
        before = conn.execute(REVISION).fetchone()
    names = ("good", "overlap", "nobody", "dark", "lamp", "power")
    told = [
        "nobody.csv:2: residents: value '0': expected a whole number from 1 to 2147483647",
        "power.csv:2: rated_power_w: value '-60': expected a number above 0 and at most 5000",
        "dark.csv:2: programme: value 'sun+720-720': never lights: no night at community 'c02' is"
        " long enough",
        "lamp.csv:2: programme: value 'sun+720-720': never lights: no night at community 'c01' is"
        " long enough",
        "overlap.csv:3: from: value '2026-06-01': overlaps the figure from 2026-01-01 to"
        " 2026-07-01",
    ]
    for arguments in ([], ["--dry-run"]):
        done = registered.run("registry", "import", *(f"{name}.csv" for name in names), *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.splitlines() == told
    done = registered.run("registry", "import", "good.csv", "circle.csv")
    assert done.returncode == 2
    told = "circle.csv:2: parent: value 'd1': the areas form a circle: d1 > d1"
    assert done.stderr.splitlines()[0] == told
    with psycopg.connect(registered.dsn) as conn:
        assert conn.execute("SELECT name FROM gateway WHERE gateway = 'gw-c01-a'").fetchone() == (
            "东门",
        )
        assert conn.execute(REVISION).fetchone() == before


def test_pki_is_made_once(installation: Installation) -> None:
    first = installation.ok("pki", "init", "--out", "pki", "--host", "broker.example")
    assert first.splitlines() == [
        "wrote pki/server.crt for broker.example",
        "wrote pki/services/ingest-telemetry-00.crt",
        "wrote pki/services/ingest-event-00.crt",
        "wrote pki/services/api-live-00.crt",
        "wrote pki/services/ingest-aggregate-00.crt",
    ]
    assert installation.ok("pki", "init", "--out", "pki", "--host", "broker.example") == ""


def test_pki_of_several_members_has_those_of_the_api_too(installation: Installation) -> None:
    arguments = ("pki", "init", "--out", "pki", "--host", "broker.example")
    installation.ok(*arguments)
    assert installation.ok(*arguments, "--members", "2").splitlines() == [
        "wrote pki/services/ingest-telemetry-01.crt",
        "wrote pki/services/ingest-event-01.crt",
        "wrote pki/services/api-live-01.crt",
    ]
    installation.ok(*arguments, "--members", "9")
    made = {file.stem for file in (installation.folder / "pki/services").glob("*.crt")}
    assert made == {*pki.service_identities(9)}
    # The broker admits no ninth api, and the api refuses to be one.
    assert {"ingest-telemetry-08", "api-live-07"} <= made
    assert "api-live-08" not in made


def test_a_gateway_is_added(registered: Installation) -> None:
    registered.ok("pki", "init", "--out", "pki", "--host", "broker.example")
    arguments = ("gateway", "add", "gw-c01-b", "--community", "c01", "--out", "gw")
    first = registered.ok(*arguments, "--broker-host", "broker.example")
    assert first.splitlines() == [
        "wrote gw/client.crt",
        "wrote gw/client.key",
        "wrote gw/ca.crt",
        "wrote gw/agent.toml",
    ]
    assert 'host = "broker.example"' in (registered.folder / "gw/agent.toml").read_text()
    assert registered.ok(*arguments) == "nothing to do\n"


def test_a_gateway_without_authority_is_refused(registered: Installation) -> None:
    done = registered.run("gateway", "add", "gw-c01-b", "--community", "c01", "--out", "gw")
    assert done.returncode == 2
    assert done.stderr.endswith("pki/ca.crt: cannot read: No such file or directory\n")


def test_maintenance_is_accepted(registered: Installation) -> None:
    with psycopg.connect(registered.dsn) as conn:
        add_nights(conn, "c01-lamp-001", date(2026, 3, 1), 2)
    arguments = ("maintenance", "add", "c01-lamp-001", "--from", "2026-03-01T20:00+08:00")
    done = registered.ok(*arguments, "--to", "2026-03-01T22:00+08:00", "--reason", "new lamp")
    assert done == "accepted; 1 nights will be counted again\n"
    wrong = registered.run(*arguments, "--to", "tomorrow", "--reason", "new lamp")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("--to: value 'tomorrow': expected an instant with its zone")


class TestDeadLetters:
    """What was refused can be looked at, and cannot steer the terminal."""

    RAW = '{"v":9}\x1b[2J市'.encode() + b"\xff"

    @pytest.fixture
    def letters(self, installation: Installation) -> Installation:
        with psycopg.connect(installation.dsn) as conn:
            for gateway, seq in (("gw-a", 7), ("gw-b", None)):
                conn.execute(
                    """
                    INSERT INTO dead_letter
                        (received_at, gateway, topic, reason, detail, stream, seq, sha256, raw)
                    VALUES (%s, %s, 'linli/v1/00/x/up/event', 'version.unknown', %s, 's', %s,
                            %s, %s)
                    """,
                    (
                        datetime(2026, 3, 1, tzinfo=UTC),
                        gateway,
                        "/v: \x1b[31mno",
                        seq,
                        hashlib.sha256(self.RAW).digest(),
                        self.RAW,
                    ),
                )
        return installation

    def test_are_listed_newest_first(self, letters: Installation) -> None:
        lines = letters.ok("deadletters", "list").splitlines()
        assert lines[0].split()[:4] == ["id", "received_at", "gateway", "reason"]
        assert [line.split()[2] for line in lines[1:]] == ["gw-b", "gw-a"]
        assert "\x1b" not in "".join(lines)
        assert letters.ok("deadletters", "list", "--gateway", "gw-a").count("\n") == 2
        assert letters.ok("deadletters", "list", "--limit", "1").count("\n") == 2

    def test_are_shown_with_their_bytes(self, letters: Installation) -> None:
        output = letters.ok("deadletters", "show", "1")
        assert output.splitlines()[-1] == '{"v":9}\\x1b[2J市\\xff'
        assert hashlib.sha256(self.RAW).hexdigest() in output
        missing = letters.run("deadletters", "show", "99")
        assert (missing.returncode, missing.stderr) == (
            2,
            "dead letter 99: there is none with this id\n",
        )

    def test_a_reader_that_went_away_is_no_accident(self, letters: Installation) -> None:
        with psycopg.connect(letters.dsn) as conn:
            conn.execute(
                """
                INSERT INTO dead_letter (received_at, topic, reason, detail, sha256, raw)
                SELECT now(), 't', 'r', repeat('x', 200), '', '' FROM generate_series(1, 2000)
                """
            )
        process = subprocess.Popen(
            [*COMMAND, "deadletters", "list", "--limit", "3000"],
            cwd=letters.folder,
            env=letters.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        with process.stderr as stderr:
            assert stderr.read() == b""
        assert process.wait(30) == 1


class TestRefusal:
    """Exit status 2 for the operator's mistakes, 3 for the schema, 1 for what is out of reach."""

    @pytest.mark.parametrize(
        "arguments",
        [
            pytest.param(["frobnicate"], id="unknown-command"),
            pytest.param(["registry", "import"], id="missing-argument"),
            pytest.param(["gateway", "add", "x"], id="missing-option"),
            pytest.param(["deadletters", "list", "--limit", "many"], id="no-number"),
        ],
    )
    def test_usage(self, tmp_path: Path, arguments: list[str]) -> None:
        done = Installation(tmp_path, "").run(*arguments)
        assert done.returncode == 2
        assert "Usage:" in done.stderr

    def test_a_missing_configuration(self, tmp_path: Path) -> None:
        done = Installation(tmp_path, "").run("migrate")
        expected = "linli.toml: cannot read: No such file or directory\n"
        assert (done.returncode, done.stderr) == (2, expected)

    def test_a_mistake_in_the_configuration(self, installation: Installation) -> None:
        done = installation.run("migrate", environ={"LINLI_INGEST__METRICS_PRT": "5"})
        assert (done.returncode, done.stderr) == (
            2,
            "LINLI_INGEST__METRICS_PRT: ingest.metrics_prt: unknown, did you mean metrics_port?\n",
        )

    def test_a_schema_that_is_too_old(self, installation: Installation) -> None:
        with psycopg.connect(installation.dsn) as conn:
            conn.execute("DELETE FROM schema_migration")
        done = installation.run("registry", "import", "areas.csv")
        assert done.returncode == 3
        assert done.stderr.startswith("schema 0, code needs ")
        assert done.stderr.endswith(": run `linli-ingest migrate`\n")

    def test_a_database_out_of_reach(self, installation: Installation) -> None:
        done = installation.run(
            "deadletters",
            "list",
            environ={"LINLI_DATABASE__DSN": "host=127.0.0.1 port=1 password=secret"},
        )
        assert done.returncode == 1
        assert done.stderr.startswith("database: connection")
        assert "secret" not in done.stderr

    def test_the_service_names_every_certificate_it_lacks(self, installation: Installation) -> None:
        installation.ok("pki", "init", "--out", "pki", "--host", "broker.example")
        services = installation.folder / "pki/services"
        shutil.copy(services / "api-live-00.crt", services / "ingest-event-00.crt")
        (services / "ingest-telemetry-00.key").chmod(0o644)
        done = installation.run("run")
        assert done.returncode == 2
        assert [
            line.replace(f"{installation.folder}/", "") for line in done.stderr.splitlines()
        ] == [
            "pki/services/ingest-telemetry-00.key: others may read it:"
            f" chmod 600 {services}/ingest-telemetry-00.key".replace(f"{installation.folder}/", ""),
            "pki/services/ingest-event-00.key: is the key of another certificate than"
            " pki/services/ingest-event-00.crt",
            "pki/services/ingest-event-00.crt: is CN=api-live-00, not CN=ingest-event-00",
        ]


def test_indicators_are_listed_with_their_targets(installation: Installation) -> None:
    lines = installation.ok("indicators", "list").splitlines()
    assert next(line for line in lines if line.startswith("incident-rate")).split()[2:4] == [
        "1.5",
        "(R1)",
    ]


def test_numbers_are_verified(registered: Installation) -> None:
    window = ("--from", "2026-11-01", "--to", "2026-12-01")
    assert registered.ok("indicators", "verify", *window) == (
        "0 numbers computed again, 0 differ\n"
    )
    with psycopg.connect(registered.dsn) as conn:
        conn.execute(
            """
            INSERT INTO community_day (domain, day, community, ends_at, status, computed_at)
            SELECT 'equipment', '2026-11-05', area, '2026-11-05T16:00Z', 'final', now()
            FROM area WHERE level = 'community' ORDER BY area LIMIT 1
            """
        )
        conn.execute(
            """
            INSERT INTO area_day (indicator, day, area, good, bad, total, subjects, status,
                                  rule_version, computed_at)
            SELECT 'equipment-good', day, community, 7, 0, 7, 1, 'final', 1, now()
            FROM community_day WHERE status = 'final'
            """
        )
    done = registered.run("indicators", "verify", *window)
    assert done.returncode == 1
    assert "2026-11-05 equipment-good in" in done.stdout
    assert "stored good=7 bad=0 total=7 n=1" in done.stdout
    wrong = registered.run("indicators", "verify", "--from", "2026-12-01", "--to", "tomorrow")
    assert (wrong.returncode, wrong.stderr) == (
        2,
        "--to: value 'tomorrow': expected a date such as 2026-03-01\n",
    )


@pytest.mark.parametrize(("suffix", "begin"), [("xlsx", b"PK"), ("pdf", b"%PDF"), ("csv", b"\xef")])
def test_report_is_written(registered: Installation, suffix: str, begin: bytes) -> None:
    with psycopg.connect(registered.dsn) as conn:
        row = conn.execute("SELECT area FROM area WHERE level = 'community' LIMIT 1").fetchone()
    assert row is not None
    month = f"{datetime.now(UTC) - timedelta(days=40):%Y-%m}"
    told = registered.ok("report", row[0], "--month", month, "--out", f"r.{suffix}")
    assert told == f"wrote r.{suffix}\n"
    assert (registered.folder / f"r.{suffix}").read_bytes().startswith(begin)
    assert [file.name for file in registered.folder.glob("*.partial")] == []


def test_report_of_nowhere_or_never_is_refused(registered: Installation) -> None:
    for arguments, sentence in (
        (("nowhere", "--month", "2026-03", "--out", "r.pdf"), "area 'nowhere': no such area"),
        (("city", "--month", "2026-13", "--out", "r.doc"), "--month: value '2026-13-01'"),
        (("city", "--month", "2026-13", "--out", "r.doc"), "--out: value 'r.doc'"),
    ):
        done = registered.run("report", *arguments)
        assert done.returncode == 2
        assert sentence in done.stderr


def test_an_interrupt_ends_with_130(installation: Installation) -> None:
    """Ctrl-C while another starter holds the lock that this one waits for."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory'"
    with psycopg.connect(installation.dsn, autocommit=True) as conn:
        key = conn.execute("SELECT pg_advisory_lock(%s)", (int.from_bytes(b"linli"),)).fetchone()
        assert key is not None
        process = subprocess.Popen(
            # What a shell starts in the background is deaf to Ctrl-C, and so are we then.
            ["env", "--default-signal=INT", *COMMAND, "migrate"],
            cwd=installation.folder,
            env=installation.environ,
            stderr=subprocess.PIPE,
            text=True,
        )

        def waits() -> bool:
            row = conn.execute(waiting.encode()).fetchone()
            return row is not None and row[0] == 1

        until(waits, "the second starter waits", timeout_s=60)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in errors


def test_certificates_in_the_folder_pass_their_own_check(installation: Installation) -> None:
    installation.ok("pki", "init", "--out", "pki", "--host", "broker.example")
    folder = installation.folder / "pki"
    for identity in ("ingest-telemetry-00", "ingest-event-00", "api-live-00"):
        own = folder / "services" / identity
        assert (
            pki.check(
                own.with_suffix(".crt"),
                own.with_suffix(".key"),
                folder / "ca.crt",
                identity=identity,
            )
            == []
        )


def test_a_member_that_is_not_there_is_not_retired(installation: Installation) -> None:
    with psycopg.connect(installation.dsn) as conn:
        conn.execute("INSERT INTO ingest_lane (lane, clean) VALUES ('ingest-event-02', true)")
    done = installation.run("retire", "2", "7", "9")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        f"member {n}: nothing to retire: {installation.folder / 'pki/services'} holds no"
        " certificate of it, and the database knows nothing of it"
        for n in (7, 9)
    ]
    with psycopg.connect(installation.dsn) as conn:
        assert conn.execute("SELECT lane FROM ingest_lane").fetchall() == [("ingest-event-02",)]


def test_a_member_without_a_certificate_is_retired_in_the_database(
    installation: Installation,
) -> None:
    with psycopg.connect(installation.dsn) as conn:
        conn.execute(
            "INSERT INTO ingest_lane (lane, clean) VALUES ('ingest-event-02', true),"
            " ('ingest-telemetry-02', true), ('event', true)"
        )
    said = installation.ok("retire", "2").splitlines()
    assert [line.split(":")[0] for line in said] == [
        f"retired ingest-{lane}-02, in the database alone" for lane in ("event", "telemetry")
    ]
    with psycopg.connect(installation.dsn) as conn:
        assert conn.execute("SELECT lane FROM ingest_lane").fetchall() == [("event",)]


def test_a_province_admits_a_city(installation: Installation) -> None:
    installation.ok("pki", "init", "--out", "pki", "--host", "localhost")
    (installation.folder / "areas.csv").write_text("area,level,name\nnorth,province,省\n")
    installation.ok("registry", "import", "areas.csv")
    admit = ("federation", "admit", "metro-city", "--area", "metro", "--out", "metro")
    done = installation.run(*admit, "--under", "south")
    assert (done.returncode, done.stderr) == (2, "--under: there is no area 'south'\n")
    assert "metro-city may tell of metro" in installation.ok(*admit, "--under", "north")
    assert {path.name for path in (installation.folder / "metro").iterdir()} == {
        "ca.crt", "metro-city.crt", "metro-city.key",
    }  # fmt: skip
    installation.ok(*admit, "--under", "north")  # twice is once
    assert "metro-city  metro  active" in installation.ok("federation", "cities")
    # The registry stays what files can say, cities or not.
    installation.ok("registry", "import", "areas.csv")


def test_a_city_says_what_it_told(registered: Installation) -> None:
    done = registered.run("federation", "status")
    assert done.returncode == 2
    assert "tells no province" in done.stderr
    with psycopg.connect(registered.dsn) as conn:
        province.begin(conn, "metro-city", "community")
        province.note_areas(conn)
    said = registered.ok("federation", "status")
    assert "as metro-city, down to community" in said
    assert "waiting 0, messages on their way 0" in said
    assert registered.ok("federation", "resend", "--from", "2026-03-01") == (
        "0 days will be told again\n"
    )
    assert "no province is told" in registered.ok("federation", "stop")
    assert registered.run("federation", "status").returncode == 2
