"""Making and opening catalogs, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from tests.bank.catalog.invented import WHO, draft
from tests.bank.catalog.postgres import Server
from tests.bank.samples import BASE, EMBEDDER
from vllm_mega.bank.catalog import schema
from vllm_mega.bank.catalog.catalog import Catalog, create_catalog, open_catalog
from vllm_mega.bank.catalog.changes import add, set_chat_template
from vllm_mega.bank.catalog.database import Database
from vllm_mega.bank.catalog.events import events_after
from vllm_mega.bank.catalog.known import list_jobs
from vllm_mega.bank.catalog.reading import get_memory, get_version
from vllm_mega.bank.catalog.records import BankSettings
from vllm_mega.bank.catalog.tables import metadata
from vllm_mega.errors import BankError, BankFormatError, BankMismatchError, BankNotFoundError, ConfigError

SETTINGS = BankSettings(BASE, EMBEDDER)
Make = Callable[[Path], Catalog]


def opened_settings(root: Path, url: str | None = None) -> BankSettings:
    with open_catalog(root, url) as catalog:
        return catalog.settings()


def test_a_bank_opens_as_it_was_made(catalog: Catalog, url: str | None) -> None:
    with open_catalog(catalog.root, url) as again:
        assert again.settings() == SETTINGS
        assert again.embedder == EMBEDDER


def test_the_migrations_make_the_tables_that_the_code_knows(catalog: Catalog) -> None:
    with catalog.database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        assert {"memories", "versions", "events"} <= set(sa.inspect(connection).get_table_names())


def test_the_newest_revision_is_known_without_alembic() -> None:
    config = Config()
    config.set_main_option("script_location", "vllm_mega.bank.catalog:migrations")
    assert ScriptDirectory.from_config(config).get_heads() == [schema.HEAD]


def test_a_newer_schema_is_refused_in_one_line(catalog: Catalog, url: str | None) -> None:
    change = sa.text("UPDATE alembic_version SET version_num = '99'")
    catalog.database.write(lambda connection: connection.execute(change))
    with pytest.raises(
        BankFormatError, match=rf"has schema 99, and this vllm_mega knows schema {schema.HEAD}: use"
    ) as error:
        open_catalog(catalog.root, url)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("version", schema.OLDER)
def test_an_older_schema_is_moved_on_and_keeps_what_it_has(
    catalog: Catalog, url: str | None, version: str
) -> None:
    """As that version made it: without what came later."""
    add(catalog, [draft("bell")], WHO)
    catalog.database.write(lambda connection: _as_it_was(connection, version))
    for _ in range(2):
        with open_catalog(catalog.root, url) as moved, moved.database.engine.connect() as connection:
            assert schema.revision(connection) == schema.HEAD
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            assert compare_metadata(context, metadata) == []
            assert [(job.id, job.state, job.started, job.steps) for job in list_jobs(moved)] == [
                ("bell", "waiting", 0.0, 0)
            ]
            bell = get_memory(moved, "default", "bell")
            assert (bell.expires, bell.retired) == (None, False)
            assert get_version(moved, "default", "bell").text == "The lamp of bell burns 1 nights."


_LATER = {
    "1": ["ALTER TABLE jobs DROP COLUMN started", "ALTER TABLE jobs DROP COLUMN steps"],
    "2": [
        "DROP TABLE idempotency", "DROP INDEX events_namespace", "DROP INDEX memories_expires",
        "ALTER TABLE memories DROP COLUMN expires", "ALTER TABLE memories DROP COLUMN retired",
    ],
    "3": ["DROP TABLE uses"],
}  # fmt: skip
"""What takes away again that which came after a version."""


def _as_it_was(connection: sa.Connection, version: str) -> None:
    for later in (later for later in _LATER if later >= version):
        for statement in _LATER[later]:
            connection.execute(sa.text(statement))
    connection.execute(sa.text("UPDATE alembic_version SET version_num = :version"), {"version": version})


def test_what_is_there_is_not_made_again(catalog: Catalog, url: str | None) -> None:
    with pytest.raises(BankFormatError, match="holds a catalog already"):
        create_catalog(catalog.root, SETTINGS, url)
    assert opened_settings(catalog.root, url) == SETTINGS


def test_another_program_s_tables_are_left_alone(postgres: Server, tmp_path: Path) -> None:
    with postgres.database() as url:
        database = Database(sa.make_url(url))
        database.write(lambda connection: connection.execute(sa.text("CREATE TABLE theirs (a INT)")))
        with pytest.raises(BankFormatError, match=r"has other tables \(theirs\)"):
            create_catalog(tmp_path / "bank", SETTINGS, url)
        database.close()


def test_a_folder_that_is_no_bank_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BankNotFoundError, match=r"it has no bank\.json"):
        open_catalog(tmp_path)
    (tmp_path / "letters.txt").touch()
    with pytest.raises(BankError, match=r"not empty \(it has letters.txt\)"):
        create_catalog(tmp_path, SETTINGS)
    with pytest.raises(BankError, match="is a file"):
        create_catalog(tmp_path / "letters.txt", SETTINGS)


@pytest.mark.parametrize("act", [open_catalog, lambda root: create_catalog(root, SETTINGS)])
def test_a_bank_of_the_old_format_is_refused(act: Make, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(BankFormatError, match=r"old format \(manifest.json\).*make a new bank"):
        act(tmp_path)


def test_a_folder_and_the_catalog_of_another_are_refused(postgres: Server, tmp_path: Path) -> None:
    with postgres.database() as url:
        create_catalog(tmp_path / "one", SETTINGS, url).close()
        create_catalog(tmp_path / "two", SETTINGS).close()
        with pytest.raises(BankMismatchError, match="is not that of"):
            open_catalog(tmp_path / "two", url)
        with pytest.raises(BankNotFoundError, match="if its catalog is in PostgreSQL, give its URL"):
            open_catalog(tmp_path / "one")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("mysql://host/db", "not mysql://"),
        ("nonsense", "URL cannot be read"),
        ("sqlite:///bank.db", "leave the catalog's URL out"),
        ("postgresql://host/db", "not postgresql://"),
    ],
)
def test_other_databases_are_refused(url: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=reason):
        create_catalog(tmp_path / "bank", SETTINGS, url)
    assert not (tmp_path / "bank").exists()


def test_a_server_that_is_away_is_told_without_its_password(tmp_path: Path) -> None:
    url = f"postgresql+psycopg://mega:hush@/nowhere?host={tmp_path}"
    with pytest.raises(BankError, match="refused: connection is bad") as error:
        create_catalog(tmp_path / "bank", SETTINGS, url)
    assert "hush" not in str(error.value)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    create_catalog(tmp_path, SETTINGS).close()
    (tmp_path / "catalog.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(BankFormatError, match="file is not a database"):
        open_catalog(tmp_path)


def test_making_a_bank_goes_on_where_it_was_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(schema, "upgrade", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            create_catalog(tmp_path / "bank", SETTINGS)
    with pytest.raises(BankNotFoundError, match="make the bank again"):
        open_catalog(tmp_path / "bank")
    create_catalog(tmp_path / "bank", SETTINGS).close()
    assert opened_settings(tmp_path / "bank") == SETTINGS


def test_the_chat_template_can_change(catalog: Catalog) -> None:
    for template in ("{{ a }}", "{{ a }}", "{{ b }}"):
        set_chat_template(catalog, template, WHO)
    assert catalog.settings().base.chat_template == "{{ b }}"
    assert [event.kind for event in events_after(catalog, 0)] == ["settings", "settings"]
