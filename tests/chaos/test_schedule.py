"""Schedules follow from their seed alone, and kill everybody."""

from chaos.schedule import ENDS_CLIENT, KINDS, MOST, draw

SEEDS = range(300)


def test_a_seed_is_a_schedule() -> None:
    assert [draw(seed) for seed in SEEDS] == [draw(seed) for seed in SEEDS]
    assert len({draw(seed)._replace(name="") for seed in SEEDS}) == len(SEEDS)


def test_every_kill_has_somebody_to_kill() -> None:
    for seed in SEEDS:
        schedule = draw(seed)
        homes = list(schedule.homes)
        assert 1 <= len(schedule.acts) <= MOST
        for act in schedule.acts:
            known = KINDS[homes[0].kind] + (("nanny",) if homes[0].nanny else ())
            assert act.what in known
            if act.what in ENDS_CLIENT:
                homes.pop(0)
        assert len(homes) == 1


def test_every_kind_is_drawn() -> None:
    drawn = {act.what for seed in SEEDS for act in draw(seed).acts}
    assert drawn == {"worker", "nanny", "scheduler", "client", "join", "everything"}
    assert {home.kind for seed in SEEDS for home in draw(seed).homes} == set(KINDS)
