"""What a hostile center could try to see one site's numbers in a secure sum. Each attack is run against the site as it is, and
against one with a planted weakness, on which it must succeed: a test that cannot fail shows nothing."""

import itertools
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from scipy import stats

from client.governance import secure_sum
from client.governance.identity import Acquaintances, Identity
from client.governance.secure_sum import SESSION, SecureSums
from server.secure_sum import MaskedSum
from shared_model import masking
from shared_model.errors import RefusedError
from shared_model.secure_records import Advertisement, MaskingSession, ReleasedShares, survivors_statement
from tests.wards import LENGTH, Ward, digest, hospital

pytestmark = pytest.mark.attacks
VICTIM = "beta"


def laid_open(masked: MaskedSum, ward: Ward, shares: dict[str, ReleasedShares]) -> bool:
    """Whether the center can compute the victim's numbers from its upload and all ``shares`` that it got, by helper."""
    sites, needed = masked.session.sites, masked.needed

    def seed(owner: str, partner: str | None) -> bytes | None:
        found: dict[int, bytes] = {}
        for helper, released in shares.items():
            share = released.own.get(owner) if partner is None else released.pairs.get(owner, {}).get(partner)
            if share is not None:
                found[sites.index(helper)] = bytes.fromhex(share)
        return masking.join(dict(itertools.islice(found.items(), needed))) if len(found) >= needed else None

    words = ward.upload_of[VICTIM].copy()
    own = seed(VICTIM, None)
    if own is None:
        return False
    masking.add_mask(words, own, negative=True)
    for other in sites:
        if other != VICTIM:
            pair = seed(VICTIM, other) or seed(other, VICTIM)
            if pair is None:
                return False
            masking.add_mask(words, pair, negative=other > VICTIM)
    return np.array_equal(words, ward.numbers[VICTIM])


def ask(ward: Ward, masked: MaskedSum, helper: str, survivors: Iterable[str], confirmations: dict[str, str]) -> ReleasedShares:
    names = tuple(sorted(survivors))
    letters = {sender: masked.masks[sender].sealed[helper] for sender in names if sender != helper}
    return ward.sites[helper].release(masked.digest, names, sealed=letters, confirmations=confirmations)


# ---- what one site sends


def uniform(words: np.ndarray) -> bool:
    """Chi-square over the bytes, and over the difference to the neighbour, of what one site sends."""
    values = [words.view(np.uint8), np.diff(words).view(np.uint8)]
    return all(stats.chisquare(np.bincount(value, minlength=256)).pvalue > 1e-4 for value in values)


def upload(tmp_path: Path) -> np.ndarray:
    ward = Ward(tmp_path, 4)
    ward.numbers = {name: np.full(50_000, 12_345, np.uint64) for name in ward.sites}
    return ward.upload(VICTIM, ward.session())[0]


def test_one_upload_is_uniform_noise(tmp_path):
    assert uniform(upload(tmp_path))


def test_it_would_be_noticed_if_masks_were_short(tmp_path, monkeypatch):
    add = masking.add_mask

    def short(words: np.ndarray, seed: bytes, *, negative: bool = False) -> None:
        add(words[: words.size // 2], seed, negative=negative)

    monkeypatch.setattr(masking, "add_mask", short)
    assert not uniform(upload(tmp_path))


# ---- "it went away": the center holds an upload, says that it never came, and has its pair masks taken off


def claim_gone(tmp_path: Path) -> tuple[Ward, np.ndarray]:
    ward = Ward(tmp_path, 4)
    names = tuple(ward.sites)
    session = ward.session()
    masked = MaskedSum(session, digest(session), LENGTH)
    uploads = {name: ward.upload(name, session) for name in names}
    honest = tuple(name for name in names if name != VICTIM)
    for name in honest:
        masked.add(name, *uploads[name])
    ward.confirm(masked, honest)
    for name in honest:
        ward.release(masked, name)
    assert masked.open().tobytes() == ward.total(honest).tobytes()
    # All pair masks of the victim are known now. Take them off what it sent.
    words = uploads[VICTIM][0].copy()
    for other in honest:
        shares = {session.sites.index(h): bytes.fromhex(r.pairs[other][VICTIM]) for h, r in masked.released.items()}
        masking.add_mask(words, masking.join(shares), negative=other > VICTIM)
    return ward, words


def test_a_center_that_hides_an_upload_learns_nothing(tmp_path):
    ward, words = claim_gone(tmp_path)
    assert not np.any(words == ward.numbers[VICTIM])
    assert uniform(np.subtract(words, ward.numbers[VICTIM]))


def test_without_a_mask_of_its_own_a_hidden_upload_would_be_laid_open(tmp_path, monkeypatch):
    monkeypatch.setattr(secure_sum.secrets, "token_bytes", lambda size: b"\0" * size)
    zero, add = b"\0" * masking.SEED_BYTES, masking.add_mask
    monkeypatch.setattr(masking, "add_mask", lambda words, seed, **kept: None if seed == zero else add(words, seed, **kept))
    ward, words = claim_gone(tmp_path)
    assert words.tobytes() == ward.numbers[VICTIM].tobytes()


# ---- two stories: some sites are told that the victim survived, the others that it went away


def two_stories(tmp_path: Path) -> bool:
    """Whether any way to tell the sites two stories lays the victim open."""
    for believers in itertools.chain.from_iterable(itertools.combinations(range(5), size) for size in range(1, 5)):
        ward = Ward(tmp_path / "-".join(map(str, believers)), 5)
        names = tuple(ward.sites)
        session = ward.session()
        masked = ward.collect(names, session)
        others = [name for name in names if name != VICTIM]
        signatures, shares = {}, {}
        for place, name in enumerate(names):
            if place not in believers and name != VICTIM:
                signatures[name] = ward.sites[name].confirm(masked.digest, tuple(others))
        for place, name in enumerate(names):
            told = names if place in believers or name == VICTIM else others
            try:
                shares[name] = ask(ward, masked, name, told, signatures)
            except RefusedError:
                continue
        if laid_open(masked, ward, shares):
            return True
    return False


def test_two_stories_about_one_site_never_lay_it_open(tmp_path):
    assert not two_stories(tmp_path)


def test_with_a_threshold_of_a_third_they_would(tmp_path, monkeypatch):
    monkeypatch.setattr(masking, "threshold", lambda sites: sites // 3 + 1)
    assert two_stories(tmp_path)


# ---- asking the same site twice


def ask_twice(tmp_path: Path, *, restart: bool) -> list[ReleasedShares]:
    """The answers of one site to being asked for both kinds of shares of the victim; ``restart`` it between."""
    ward = Ward(tmp_path, 4)
    names = tuple(ward.sites)
    masked = ward.collect(names)
    others = tuple(name for name in names if name != VICTIM)
    answers = [ask(ward, masked, "alpha", names, {})]
    if restart:
        ward.sites["alpha"] = hospital("alpha", tmp_path)
    statement = survivors_statement(masked.digest, others)
    forged = {name: ward.sites[name].identity.sign(statement) for name in others}  # as if all of them were on its side
    answers.append(ask(ward, masked, "alpha", others, forged))
    return answers


@pytest.mark.parametrize("restart", [False, True])
def test_a_site_answers_one_story_only_even_after_a_restart(tmp_path, restart):
    with pytest.raises(RefusedError, match="other survivors than were named before"):
        ask_twice(tmp_path, restart=restart)


def test_a_site_that_forgot_would_give_away_both_kinds_of_shares(tmp_path, monkeypatch):
    write, written = SecureSums._write, set()

    def forgetful(self: SecureSums, name: str, content: bytes) -> None:
        if name == SESSION and self.site in written:
            return
        written.add(self.site if name == SESSION else "")
        write(self, name, content)

    monkeypatch.setattr(SecureSums, "_write", forgetful)
    monkeypatch.setattr(SecureSums, "_opened", staticmethod(lambda path: {}))
    first, second = ask_twice(tmp_path, restart=True)
    assert VICTIM in first.own
    assert all(VICTIM in pairs for pairs in second.pairs.values())


def test_no_request_can_ask_for_both_kinds_of_shares_of_one_site(tmp_path):
    """A request names the survivors; of all others the site takes it that they went away. The two sets cannot overlap."""
    ward = Ward(tmp_path, 4)
    alive = ("alpha", "delta", "gamma")
    masked = ward.collect(alive)
    ward.confirm(masked, alive)
    shares = ask(ward, masked, "alpha", alive, masked.confirmations)
    assert set(shares.own) == set(alive)
    assert {site for pairs in shares.pairs.values() for site in pairs} == set(ward.sites) - set(alive)


def test_the_same_request_again_gets_the_same_answer(tmp_path):
    ward = Ward(tmp_path, 4)
    names = tuple(ward.sites)
    masked = ward.collect(names)
    first = ask(ward, masked, "alpha", names, {})
    ward.sites["alpha"] = hospital("alpha", tmp_path)
    assert ask(ward, masked, "alpha", names, {}) == first


@pytest.mark.parametrize(
    ("survivors", "why"),
    [
        (("alpha", "gamma"), "only 2 survivors"),
        (("beta", "delta", "gamma"), "said to have gone away"),
        (("alpha", "delta", "gamma", "omega"), "not of the roster"),
        (("alpha", "alpha", "delta"), "not of the roster"),
        (("alpha", "delta", "gamma"), "confirmed by 0 sites"),
    ],
)
def test_survivors_that_will_not_do_are_refused(tmp_path, survivors, why):
    ward = Ward(tmp_path, 4)
    masked = ward.collect(tuple(ward.sites))
    letters = {sender: masked.masks["gamma"].sealed["alpha"] for sender in survivors if sender != "alpha"}
    with pytest.raises(RefusedError, match=why):
        ward.sites["alpha"].release(masked.digest, survivors, sealed=letters, confirmations={})


def test_an_unmasking_of_another_or_an_older_sum_is_refused(tmp_path):
    ward = Ward(tmp_path, 4)
    names = tuple(ward.sites)
    old = ward.collect(names)
    new = ward.collect(names, ward.session(attempt=2))
    with pytest.raises(RefusedError, match="not the sum"):
        ask(ward, old, "alpha", names, {})
    crossed = {sender: old.masks[sender].sealed["alpha"] for sender in names if sender != "alpha"}
    with pytest.raises(RefusedError, match="not sealed for this sum"):
        ward.sites["alpha"].release(new.digest, names, sealed=crossed, confirmations={})


# ---- two rosters: the same sum again without the victim, in the same round, a later one or another run; and the difference


AGAIN = {
    "the same round": {"step": "train/1"},
    "the next round, with the model of this one": {"step": "train/2"},
    "another run of the protocol": {"step": "train/1", "run": "another"},
}


def two_rosters(tmp_path: Path, *, step: str, run: str = "run", gone: bool = False, subject: str = "model of train/1") -> bool:
    """Whether the center learns the victim's numbers; the second time it leaves it out of the roster, or says it is gone."""
    ward = Ward(tmp_path, 5)
    names = tuple(ward.sites)
    others = tuple(name for name in names if name != VICTIM)
    sums = []
    for attempt, survivors in enumerate((names, others), 1):
        if attempt == 2 and run != "run":
            ward = Ward(tmp_path, 5, run=run)
        roster = names if gone else survivors
        of = {"step": step, "subject": subject} if attempt == 2 else {}
        masked = ward.collect(survivors, ward.session(attempt, roster), **of)
        try:
            if survivors != roster:
                ward.confirm(masked, survivors)
            for name in survivors:
                ward.release(masked, name)
        except RefusedError as error:
            assert "unmasked before" in str(error) or "summed before" in str(error)
            return False
        sums.append(masked.open())
    return np.array_equal(np.subtract(sums[0], sums[1]), ward.numbers[VICTIM])


@pytest.mark.parametrize("gone", [False, True], ids=["another roster", "said to be gone"])
@pytest.mark.parametrize("again", AGAIN.values(), ids=AGAIN)
def test_the_same_is_not_summed_again_without_one_site(tmp_path, again, gone):
    assert not two_rosters(tmp_path, **again, gone=gone)


@pytest.mark.parametrize("gone", [False, True], ids=["another roster", "said to be gone"])
@pytest.mark.parametrize("again", AGAIN.values(), ids=AGAIN)
def test_sites_that_do_not_remember_sums_would_lay_another_open(tmp_path, monkeypatch, again, gone):
    monkeypatch.setattr(SecureSums, "_opened", staticmethod(lambda path: {}))
    assert two_rosters(tmp_path, **again, gone=gone)


def test_the_memory_of_rounds_alone_would_not_do(tmp_path):
    """Planted: every sum counts as one of another model."""
    assert two_rosters(tmp_path, step="train/2", subject="another model")


def test_a_site_that_comes_back_is_summed_again_with_the_next_model(tmp_path):
    ward = Ward(tmp_path, 5)
    names = tuple(ward.sites)
    for round_, roster in enumerate((names, names[:4], names), 1):
        masked = ward.collect(roster, ward.session(round_, roster), f"train/{round_}", f"model {round_}")
        for name in roster:
            ward.release(masked, name)
        assert masked.open().tobytes() == ward.total(roster).tobytes()


# ---- keys


def test_keys_are_used_once(tmp_path, monkeypatch):
    ward = Ward(tmp_path, 4)
    session = ward.session()
    ward.upload("alpha", session)
    with pytest.raises(RefusedError, match="other keys"):
        ward.upload("alpha", session)
    monkeypatch.setattr(SecureSums, "advertise", lambda self: session.roster[0])
    again = ward.session()
    ward.upload("beta", again)
    ward.upload("beta", again)  # planted: keys that are not replaced are accepted twice


def substituted(ward: Ward, *, signer: Ed25519PrivateKey | None, identity: str | None) -> MaskingSession:
    """The roster with keys of the center's own under the victim's name."""
    session = ward.session()
    mine = [X25519PrivateKey.generate().public_key().public_bytes_raw().hex() for _ in range(2)]
    victim = session.roster[session.sites.index(VICTIM)]
    false = replace(victim, masking=mine[0], sealing=mine[1], identity=identity or victim.identity)
    if signer is not None:
        false = replace(false, signature=signer.sign(false.signed).hex())
    return MaskingSession(1, tuple(false if site.site == VICTIM else site for site in session.roster))


def enrolled(ward: Ward, folder: Path) -> Path:
    """A roster file of the ward's identities, as a hospital approves it."""
    path = folder / "roster.toml"
    path.write_text("[sites]\n" + "".join(f'{name} = "{site.identity.line} {name}"\n' for name, site in ward.sites.items()))
    return path


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("renamed", [False, True])
@pytest.mark.parametrize("known", ["roster", "first use"])
def test_keys_in_another_sites_name_are_refused(tmp_path, signed, renamed, known):
    ward = Ward(tmp_path, 4)
    if known == "roster":
        ward.sites["alpha"] = hospital("alpha", tmp_path, roster=enrolled(ward, tmp_path))
        ward.offers["alpha"] = ward.sites["alpha"].advertise()
    else:
        ward.collect(tuple(ward.sites))  # they have met
    center = Ed25519PrivateKey.generate()
    session = substituted(
        ward, signer=center if signed else None, identity=center.public_key().public_bytes_raw().hex() if renamed else None
    )
    with pytest.raises(RefusedError):
        ward.upload("alpha", session, step="train/2")


def test_a_site_that_does_not_check_whose_keys_they_are_would_mask_for_the_center(tmp_path, monkeypatch):
    ward = Ward(tmp_path, 4)
    ward.collect(tuple(ward.sites))
    center = Ed25519PrivateKey.generate()
    session = substituted(ward, signer=center, identity=center.public_key().public_bytes_raw().hex())
    monkeypatch.setattr(Acquaintances, "require", lambda self, identities: None)
    ward.upload("alpha", session, step="train/2")


def test_a_site_that_no_roster_names_is_refused(tmp_path):
    ward = Ward(tmp_path, 3)
    roster = enrolled(ward, tmp_path)
    ward.sites["alpha"] = hospital("alpha", tmp_path, roster=roster)
    stranger = hospital("zeta", tmp_path)
    ward.offers |= {"alpha": ward.sites["alpha"].advertise(), "zeta": stranger.advertise()}
    session = MaskingSession(1, tuple(ward.offers[name] for name in sorted(ward.offers)))
    with pytest.raises(RefusedError, match="'zeta' is not in this site's roster"):
        ward.upload("alpha", session)


def test_rosters_that_are_too_short_doubled_or_of_another_run_are_refused(tmp_path):
    ward = Ward(tmp_path, 4)
    full = ward.session().roster
    foreign = _resigned(replace(full[1], run="another"), ward)
    twin = _resigned(replace(full[2], masking=full[1].masking), ward)
    for roster in (full[:2], (*full, full[3]), full[::-1], (full[0], foreign, *full[2:]), (full[0], full[1], twin, full[3])):
        with pytest.raises(RefusedError):
            ward.upload("alpha", MaskingSession(1, roster))


def _resigned(changed: Advertisement, ward: Ward) -> Advertisement:
    return replace(changed, signature=ward.sites[changed.site].identity.sign(changed.signed))


# ---- other models to other sites (Pasquini et al. 2022): the update of the one whose model is alive would stand alone


def two_models(tmp_path: Path) -> bool:
    """Whether the sum of sites with different models can be opened."""
    ward = Ward(tmp_path, 4)
    session = ward.session()
    masked = MaskedSum(session, digest(session), LENGTH)
    for name in ward.sites:
        words = ward.numbers[name].copy()
        model = b"alive" if name == VICTIM else b"dead"
        masks = ward.sites[name].mask(words, session=session, digest=digest(session, model), step="train/1", subject="a model")
        masked.total += words
        masked.masks[name] = masks
    try:
        for name in ward.sites:
            told = masked.masks[name].session
            masked.release(
                name,
                replace(
                    ward.sites[name].release(told, masked.survivors, sealed=masked.letters_to(name), confirmations={}),
                    session=masked.digest,
                ),
            )
    except RefusedError:
        return False
    return np.array_equal(masked.open(), ward.total(tuple(ward.sites)))


def test_sites_with_different_models_have_no_mask_in_common(tmp_path):
    assert not two_models(tmp_path)


def test_if_masks_were_not_bound_to_the_model_they_would(tmp_path, monkeypatch):
    bound = digest
    monkeypatch.setitem(globals(), "digest", lambda session, model=b"": bound(session, b"any"))
    assert two_models(tmp_path)


def test_a_roster_with_another_kind_of_key_is_told_to_its_owner(tmp_path):
    path = tmp_path / "roster.toml"
    path.write_text('[sites]\nalpha = "ecdsa-sha2-nistp384 AAAA"\nbeta = "ssh-ed25519"\n')
    with pytest.raises(Exception, match=r"(?s)2 problems.*sites\.alpha.*sites\.beta"):
        Acquaintances(listed=path, met=tmp_path / "met.json")
    (tmp_path / "key").write_text("no key")
    with pytest.raises(Exception, match="ssh-keygen"):
        Identity.at(tmp_path / "key")
