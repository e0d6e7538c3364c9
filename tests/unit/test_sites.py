"""The roster against a Grid that does what a test says."""

import time
from dataclasses import dataclass, field

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode
from flwr.supercore.task_identity import TaskIdentity

from server.sites import Answer, Roster
from shared_model import flower_records
from shared_model.errors import FailureCode, MessageError
from shared_model.flower_records import WHO, pack, pack_name, unpack, unpack_name
from shared_model.messages import Envelope

SUPERLINK = 1


@pytest.fixture(autouse=True)
def identity():
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 7, SUPERLINK, 3


@dataclass
class Node:
    """A node: says ``name`` when asked (None: its worker is not up), and treats a request by ``answer``."""

    name: str | None
    answer: object = None  # a function of the message; its result is the reply, None: no reply
    delay_s: float = 0.0


@dataclass
class ScriptedGrid:
    nodes: dict[int, Node]
    refused: set[int] = field(default_factory=set)
    pushed: list[Message] = field(default_factory=list)
    replies: dict[str, tuple[float, Message]] = field(default_factory=dict)
    pulled: list[str] = field(default_factory=list)

    def get_node_ids(self):
        return list(self.nodes)

    def push_messages(self, messages):
        identifiers = []
        for message in messages:
            identifier = f"m{len(self.pushed)}"
            message.metadata.__dict__["_message_id"] = identifier
            self.pushed.append(message)
            node = self.nodes.get(message.metadata.dst_node_id)
            if node is None or message.metadata.dst_node_id in self.refused:
                identifiers.append(None)
                continue
            identifiers.append(identifier)
            reply = self.introduce(node, message) if message.metadata.message_type == WHO else node.answer(message)
            if reply is not None:
                delay = 0.0 if message.metadata.message_type == WHO else node.delay_s
                self.replies[identifier] = (time.monotonic() + delay, reply)
        return identifiers

    def pull_messages(self, message_ids):
        self.pulled += message_ids
        ready = [name for name in message_ids if name in self.replies and self.replies[name][0] <= time.monotonic()]
        return [self.replies.pop(name)[1] for name in ready]

    @staticmethod
    def introduce(node, message):
        return Message(RecordDict() if node.name is None else pack_name(node.name), reply_to=message)

    def requests(self):
        return [message for message in self.pushed if message.metadata.message_type != WHO]


def echo(message):
    request = unpack(message.content)
    return Message(pack(Envelope(b"re: " + request.header, request.payload)), reply_to=message)


def silence(message):
    return None


def superlink_error(code):
    """As the SuperLink makes it: from node 1, to be attributed by the message it replies to."""

    def reply(message):
        error = Message(Error(code, "patient 12345 has no label"), reply_to=message)
        error.metadata.__dict__["_src_node_id"] = SUPERLINK
        return error

    return reply


def roster_of(**nodes):
    grid = ScriptedGrid(dict(enumerate(nodes.values(), 10)))
    roster = Roster(grid, poll_s=0.02)
    present = [node.name for node in nodes.values() if node.name]
    assert roster.connect(present, timeout_s=5.0) == tuple(present)
    return grid, roster


def ask(roster, sites, *, deadline_s=10.0, payload=b""):
    requests = {site: Envelope(site.encode(), payload) for site in sites}
    return {answer.site: answer for answer in roster.ask(requests, deadline_s=deadline_s)}


# Who is there


def test_sites_are_returned_in_the_order_expected_and_strangers_left_out():
    grid = ScriptedGrid({10: Node("south"), 11: Node("stranger"), 12: Node("north")})
    assert Roster(grid, poll_s=0.02).connect(["north", "south"], timeout_s=5.0) == ("north", "south")


def test_connecting_waits_for_a_site_that_comes_later_and_for_one_whose_worker_is_slow_to_start():
    class Arriving(ScriptedGrid):
        def get_node_ids(self):
            if time.monotonic() > start + 0.2:
                self.nodes[11] = Node("late")
                self.nodes[10].name = "slow"
            return super().get_node_ids()

    start = time.monotonic()
    roster = Roster(Arriving({10: Node(None)}), poll_s=0.02)
    assert roster.connect(["slow", "late"], timeout_s=5.0) == ("slow", "late")
    assert 0.2 <= time.monotonic() - start < 5.0


def test_time_is_up_without_a_site():
    start = time.monotonic()
    roster = Roster(ScriptedGrid({10: Node("north")}), poll_s=0.02)
    assert roster.connect(["north", "south"], timeout_s=0.2) == ("north",)
    assert 0.2 <= time.monotonic() - start < 5.0


def test_nobody_expected_is_there_at_once():
    assert Roster(ScriptedGrid({})).connect([], timeout_s=5.0) == ()


def test_the_second_of_two_nodes_with_one_name_is_ignored_until_the_first_leaves():
    grid, roster = roster_of(first=Node("north", echo), second=Node("north", echo))
    assert [text for text in roster.warnings if "north" in text and "11" in text]
    assert ask(roster, ["north"])["north"].code is None
    assert grid.requests()[-1].metadata.dst_node_id == 10

    del grid.nodes[10]
    wait_for_discovery(roster, lambda: "north" in roster.present and 10 not in grid.nodes)
    assert ask(roster, ["north"])["north"].code is None
    assert grid.requests()[-1].metadata.dst_node_id == 11
    assert len(roster.warnings) == 1


def test_a_site_that_left_is_unreachable_and_is_found_again_under_a_new_node():
    grid, roster = roster_of(north=Node("north", echo))
    node = grid.nodes.pop(10)
    wait_for_discovery(roster, lambda: not roster.present)
    assert ask(roster, ["north"]) == {"north": Answer("north", None, FailureCode.UNREACHABLE, 0.0)}

    grid.nodes[99] = node
    wait_for_discovery(roster, lambda: roster.present == ("north",))
    assert ask(roster, ["north"])["north"].envelope.header == b"re: north"


def test_a_site_that_rejoins_while_others_are_asked_is_there_for_the_next_question():
    grid, roster = roster_of(slow=Node("slow", echo, delay_s=0.3))
    grid.nodes[20] = Node("back", echo)
    ask(roster, ["slow"], deadline_s=2.0)
    assert ask(roster, ["back"])["back"].code is None


def wait_for_discovery(roster, condition):
    deadline = time.monotonic() + 5.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
        roster.refresh()
    time.sleep(0.06)
    roster.refresh()


@pytest.mark.parametrize("name", ["", "../north", "a b", "north\n", "x" * 65, "<script>"])
def test_an_improper_name_is_ignored_with_a_warning(name):
    roster = Roster(ScriptedGrid({10: Node(name)}), poll_s=0.02)
    assert roster.connect([name], timeout_s=0.1) == ()
    assert len(roster.warnings) == 1
    assert len(roster.warnings[0]) < 300


# Asking


def test_every_site_gets_its_own_request_and_answer_bit_for_bit():
    _, roster = roster_of(north=Node("north", echo), south=Node("south", echo))
    payload = bytes(range(256)) * 20_000
    answers = ask(roster, ["south", "north"], payload=payload)
    assert {site: answer.envelope for site, answer in answers.items()} == {
        site: Envelope(b"re: " + site.encode(), payload) for site in ("north", "south")
    }
    assert all(answer.code is None and 0.0 <= answer.seconds < 10.0 for answer in answers.values())


def test_answers_come_as_they_arrive():
    _, roster = roster_of(slow=Node("slow", echo, delay_s=0.5), quick=Node("quick", echo))
    start = time.monotonic()
    answers = roster.ask({"slow": Envelope(b""), "quick": Envelope(b"")}, deadline_s=10.0)
    assert next(answers).site == "quick"
    assert time.monotonic() - start < 0.5
    slow = next(answers)
    assert slow.site == "slow"
    assert slow.seconds >= 0.5
    assert list(answers) == []


def test_many_more_sites_than_are_pulled_at_once():
    names = [f"site{number}" for number in range(23)]
    _, roster = roster_of(**{name: Node(name, echo) for name in names})
    assert [answer.code for answer in ask(roster, names).values()] == [None] * 23


def test_silence_ends_at_the_deadline():
    _, roster = roster_of(mute=Node("mute", silence), north=Node("north", echo))
    start = time.monotonic()
    answers = ask(roster, ["mute", "north"], deadline_s=0.2)
    assert 0.2 <= time.monotonic() - start < 5.0
    assert answers["north"].code is None
    assert (answers["mute"].envelope, answers["mute"].code) == (None, FailureCode.DEADLINE)
    assert answers["mute"].seconds >= 0.2


def test_what_arrived_while_the_caller_was_busy_past_the_deadline_still_counts():
    _, roster = roster_of(north=Node("north", echo), south=Node("south", echo, delay_s=0.05))
    answers = roster.ask({"north": Envelope(b""), "south": Envelope(b"")}, deadline_s=0.2)
    first = next(answers)
    time.sleep(0.4)
    assert {first.site, *(answer.site for answer in answers if answer.code is None)} == {"north", "south"}


def test_a_late_reply_is_never_an_answer_to_the_next_question():
    grid, roster = roster_of(late=Node("late", echo, delay_s=600.0))
    assert ask(roster, ["late"], deadline_s=0.05)["late"].code is FailureCode.DEADLINE
    [(message, (_, reply))] = grid.replies.items()
    grid.replies[message] = (0.0, reply)
    grid.nodes[10].answer = silence
    assert ask(roster, ["late"], deadline_s=0.1)["late"].code is FailureCode.DEADLINE


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (ErrorCode.NODE_UNAVAILABLE, FailureCode.UNREACHABLE),
        (ErrorCode.MESSAGE_UNAVAILABLE, FailureCode.UNREACHABLE),
        (ErrorCode.REPLY_MESSAGE_UNAVAILABLE, FailureCode.UNREACHABLE),
        (ErrorCode.CLIENT_APP_RAISED_EXCEPTION, FailureCode.INTERNAL),
        (ErrorCode.LOAD_CLIENT_APP_EXCEPTION, FailureCode.INTERNAL),
        (ErrorCode.UNKNOWN, FailureCode.INTERNAL),
        (12345, FailureCode.INTERNAL),
    ],
)
def test_an_error_of_flower_is_attributed_to_its_site_without_its_text(code, expected, caplog):
    _, roster = roster_of(north=Node("north", echo), south=Node("south", superlink_error(code)))
    answers = ask(roster, ["north", "south"])
    assert answers["north"].code is None
    assert (answers["south"].envelope, answers["south"].code) == (None, expected)
    assert "12345 has no label" not in caplog.text


def test_a_site_nobody_knows_and_a_message_flower_does_not_take_are_unreachable():
    grid, roster = roster_of(north=Node("north", echo), south=Node("south", echo))
    grid.refused = {11}
    answers = ask(roster, ["north", "south", "atlantis"])
    assert {site: answer.code for site, answer in answers.items()} == {
        "north": None,
        "south": FailureCode.UNREACHABLE,
        "atlantis": FailureCode.UNREACHABLE,
    }


MALFORMED = {
    "empty": RecordDict(),
    "no header": RecordDict({"payload": flower_records.pack_payload(b"x")}),
    "a text": RecordDict({"header": ConfigRecord({"header": "text"})}),
    "a number": RecordDict({"header": ConfigRecord({"header": 1})}),
    "another kind of record": RecordDict({"header": MetricRecord({"header": 1})}),
    "an empty array record": RecordDict({"header": ConfigRecord({"header": b"x"}), "payload": ArrayRecord()}),
    "a payload of text": RecordDict({"header": ConfigRecord({"header": b"x"}), "payload": ConfigRecord({"payload": "x"})}),
}


@pytest.mark.parametrize("records", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_reply_is_its_sites_trouble_only(records):
    south = Node("south", lambda message: Message(records, reply_to=message))
    _, roster = roster_of(north=Node("north", echo), south=south)
    answers = ask(roster, ["north", "south"])
    assert answers["north"].code is None
    assert (answers["south"].envelope, answers["south"].code) == (None, FailureCode.MALFORMED_REPLY)


def test_a_reply_in_the_name_of_another_node_does_not_count():
    def forged(message):
        reply = echo(message)
        reply.metadata.__dict__["_src_node_id"] = 10
        return reply

    _, roster = roster_of(north=Node("north", echo), south=Node("south", forged))
    assert ask(roster, ["south"])["south"].code is FailureCode.MALFORMED_REPLY


def test_sites_that_get_the_same_payload_share_one_record():
    grid, roster = roster_of(north=Node("north", echo), south=Node("south", echo), east=Node("east", echo))
    model = bytes(1000)
    requests = {"north": model, "south": bytes(bytearray(model)), "east": b"another"}
    list(roster.ask({site: Envelope(b"", payload) for site, payload in requests.items()}, deadline_s=1.0))
    north, south, east = (next(iter(message.content.array_records.values())) for message in grid.requests())
    assert north is south
    assert east is not north


def test_messages_outlive_the_deadline_and_the_clocks_of_hospitals():
    grid, roster = roster_of(north=Node("north", echo))
    ask(roster, ["north"], deadline_s=100.0)
    assert grid.requests()[-1].metadata.ttl >= 100.0 + 305.0


# Records


@pytest.mark.parametrize("payload", [b"", b"\0", bytes(1000)], ids=len)
def test_an_envelope_survives_its_packing(payload):
    envelope = Envelope(b"\xff header", payload)
    assert unpack(pack(envelope)) == envelope


def test_packing_copies_no_payload():
    payload = bytes(1000)
    assert unpack(pack(Envelope(b"", payload))).payload is payload


@pytest.mark.parametrize("limit", ["HEADER_LIMIT", "PAYLOAD_LIMIT"])
def test_an_envelope_over_a_limit_is_refused(monkeypatch, limit):
    monkeypatch.setattr(flower_records, limit, 3)
    with pytest.raises(MessageError, match="over the limit"):
        unpack(pack(Envelope(b"four", b"four")))


@pytest.mark.parametrize("records", [RecordDict(), RecordDict({"site": ConfigRecord({"site": 3})})], ids=["none", "number"])
def test_no_name_is_no_name(records):
    with pytest.raises(MessageError):
        unpack_name(records)


def test_a_node_is_the_site_whose_key_it_has_whatever_it_says():
    grid = ScriptedGrid({10: Node("north", echo), 11: Node("south", echo), 12: Node("west", echo)})
    registered = {10: "north", 11: "north"}  # the hospital's old and new key; 12 is unknown
    roster = Roster(grid, poll_s=0.02, registered=lambda: registered)
    assert roster.connect(["north", "south", "west"], timeout_s=0.3) == ("north",)
    assert [text for text in roster.warnings if "11" in text and "'south'" in text and "'north'" in text]
    assert [text for text in roster.warnings if "12" in text and "None" in text]


def test_a_site_that_need_not_be_waited_for_is_late_before_the_deadline_and_no_reply_is_lost_to_it():
    _, roster = roster_of(mute=Node("mute", silence), north=Node("north", echo, delay_s=0.3))
    requests = {site: Envelope(b"") for site in ("mute", "north")}
    answered = []

    def give_up(site, waited_s):
        return site == "mute" and "north" in answered and waited_s > 0.1

    for answer in roster.ask(requests, deadline_s=60.0, give_up=give_up):
        answered.append(answer.site)
        if answer.site == "mute":
            assert (answer.code, answer.envelope) == (FailureCode.DEADLINE, None)
            assert 0.3 <= answer.seconds < 30.0
    assert answered == ["north", "mute"]
    # A reply that is there when its site would be given up counts.
    _, roster = roster_of(north=Node("north", echo))
    [answer] = roster.ask({"north": Envelope(b"")}, deadline_s=60.0, give_up=lambda site, waited_s: True)
    assert answer.code is None
