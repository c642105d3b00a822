from tokenwire_server.config import load


def test_a_flag_beats_the_environment_and_the_environment_beats_the_file(tmp_path, monkeypatch):
    path = tmp_path / "tokenwire.toml"
    path.write_text('listen = "127.0.0.1:1"\ndrain_grace_s = 1\n[limits]\nmax_streams = 1\n')
    monkeypatch.setenv("TOKENWIRE_LISTEN", "127.0.0.1:2")
    monkeypatch.setenv("TOKENWIRE_DRAIN_GRACE_S", "2")
    settings = load(path, {"listen": "127.0.0.1:3"})
    assert settings.listen == "127.0.0.1:3"
    assert settings.drain_grace_s == 2
    assert settings.limits.max_streams == 1
