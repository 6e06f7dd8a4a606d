from hybrid_infer.datatypes.timings import ChatTimings, TokenTimer, timings_of


def test_from_the_first_token_to_the_pace(clock):
    timer = TokenTimer(clock)
    assert timer.timings == ChatTimings(None, None)
    clock.advance(3)
    timer.tick()
    assert timer.timings == ChatTimings(3, None)
    for seconds in (1, 2, 6):
        clock.advance(seconds)
        timer.tick()
    clock.advance(100)  # what follows the last token is not its time
    assert timer.timings == ChatTimings(3, 3)


def test_several_answers():
    answers = [ChatTimings(3, 2), ChatTimings(1, None), ChatTimings(None, 4)]
    assert timings_of(answers) == ChatTimings(1, 3)
    assert timings_of([]) == ChatTimings(None, None)
