"""θ: a value, its files, and systems that nest."""

from __future__ import annotations

import asyncio

import pytest
import torch
from torch import nn

from hyperfunc import (
    AdapterMeta,
    Choice,
    Float,
    HyperSystem,
    Integer,
    LMParam,
    LoRAWeight,
    Space,
    TextParam,
    Theta,
    get_hp_default_init,
    get_hp_noise_rank,
    get_hp_shape,
    hyperfunction,
    load_theta,
    save_theta,
)
from hyperfunc.errors import (
    ConfigurationError,
    ParameterError,
    ParameterTypeError,
    ShapeError,
    UnboundError,
    UnknownParameterError,
)

THETA = Theta({"b.prompt": "hi", "a.hp": torch.arange(6.0).reshape(2, 3), "c.table": {"k": [1, True, None, 0.5]}})


class TestValue:
    def test_it_is_ordered_hashed_by_content_and_equal_by_content(self):
        same = Theta(
            {"c.table": {"k": [1, True, None, 0.5]}, "a.hp": torch.arange(6.0).reshape(2, 3), "b.prompt": "hi"}
        )
        assert list(THETA) == ["a.hp", "b.prompt", "c.table"]
        assert (THETA, hash(THETA), THETA.content_hash) == (same, hash(same), same.content_hash)

    @pytest.mark.parametrize(
        "change",
        [
            {"a.hp": torch.arange(6.0).reshape(2, 3) + 1e-6},
            {"a.hp": torch.arange(6.0).reshape(3, 2)},
            {"a.hp": torch.arange(6.0).reshape(2, 3).double()},
            {"b.prompt": "ho"},
            {"c.table": {"k": [1, True, None, 1]}},
        ],
    )
    def test_any_change_changes_the_hash(self, change):
        assert THETA.replace(change, strict=False).content_hash != THETA.content_hash

    def test_names_and_values_cannot_run_together_in_the_hash(self):
        assert Theta({"ab": "c"}).content_hash != Theta({"a": "bc"}).content_hash

    def test_what_it_hands_out_cannot_change_it(self):
        THETA["c.table"]["k"].append("x")
        assert THETA["c.table"] == {"k": [1, True, None, 0.5]}

    @pytest.mark.parametrize(
        ("change", "error", "words"),
        [
            ({"a.ph": torch.ones(1)}, UnknownParameterError, r"did you mean 'a\.hp'"),
            ({"a.hp": torch.ones(3, 2)}, ShapeError, r"expected shape \[2, 3\], got \[3, 2\]"),
            ({"a.hp": torch.ones(2, 3).half()}, ParameterTypeError, "float32.*float16"),
            ({"a.hp": "text"}, ParameterTypeError, "expected a tensor, got a text"),
            ({"b.prompt": 3}, ParameterTypeError, "expected str, got int"),
            ({"c.table": [1]}, ParameterTypeError, "expected dict, got list"),
            ({"b.prompt": torch.ones(1)}, ParameterTypeError, "expected a text"),
        ],
    )
    def test_a_wrong_replacement_says_what_was_expected(self, change, error, words):
        with pytest.raises(error, match=words):
            THETA.replace(change)

    @pytest.mark.parametrize("value", [object(), float("nan"), {1: "x"}, (1, 2), b"bytes"])
    def test_values_are_tensors_or_json(self, value):
        with pytest.raises(ParameterTypeError):
            Theta({"x": value})

    def test_files_round_trip(self, tmp_path):
        theta = THETA.replace({"d.hp": torch.ones(2).bfloat16(), "e.hp": torch.zeros(()).double()}, strict=False)
        save_theta(theta, tmp_path / "deep" / "theta")
        loaded = load_theta(tmp_path / "deep" / "theta.json")
        assert loaded == theta
        assert loaded["d.hp"].dtype == torch.bfloat16

    def test_files_have_the_permissions_of_any_new_file_and_nothing_else_is_left(self, tmp_path):
        ordinary = tmp_path / "ordinary"
        ordinary.write_text("")
        written = save_theta(THETA, tmp_path / "theta")
        assert {path.stat().st_mode for path in written} == {ordinary.stat().st_mode}
        assert {path.name for path in tmp_path.iterdir()} == {"ordinary", "theta.json", "theta.safetensors"}

    def test_damaged_missing_and_mixed_files_are_errors_of_ours(self, tmp_path):
        with pytest.raises(ParameterError, match="no saved θ"):
            load_theta(tmp_path / "nothing")
        save_theta(THETA, tmp_path / "a")
        save_theta(Theta({"x": "y"}), tmp_path / "b")
        (tmp_path / "a.json").write_bytes((tmp_path / "b.json").read_bytes())
        with pytest.raises(ParameterError, match="do not belong together"):
            load_theta(tmp_path / "a")
        (tmp_path / "b.safetensors").write_bytes(b"\xff" * 9)
        with pytest.raises(ParameterError, match="damaged"):
            load_theta(tmp_path / "b")

    def test_a_failed_write_leaves_the_old_file(self, tmp_path, monkeypatch):
        save_theta(THETA, tmp_path / "a")
        monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            save_theta(THETA.replace({"b.prompt": "new"}), tmp_path / "a")
        assert load_theta(tmp_path / "a") == THETA
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.safetensors"]


@hyperfunction(hp_type=LoRAWeight.create(2, 2), optimize_hparams=True)
async def layer(x, hp):
    return x @ hp.weight.T


class Inner(HyperSystem):
    async def run(self, x):
        return await layer(x)


class Outer(HyperSystem):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.left = Inner()
        self.right = Inner()

    async def run(self, x):
        return await self.left.run(x) + await self.right.run(x) + await layer(x)


class TestSystems:
    def test_names_are_dotted_and_each_nested_system_has_its_own_values(self):
        system = Outer(seed=3)
        x = torch.ones(2)
        system.run_sync(x)
        assert set(system.theta) == {"layer.hp", "left.layer.hp", "right.layer.hp"}
        system.set_hp_state({"left.layer": torch.eye(2), "right.layer": 2 * torch.eye(2), "layer": 4 * torch.eye(2)})
        assert system.run_sync(x).tolist() == [7.0, 7.0]
        assert system.left.run_sync(x).tolist() == [1.0, 1.0]
        assert system.hp_dim == 12

    def test_initial_values_are_a_function_of_seed_and_name(self):
        states = [Outer(seed=s) for s in (0, 0, 1)]
        for system in states:
            system.run_sync(torch.ones(2))
        first, again, other = (s.get_hp_state() for s in states)
        assert torch.equal(first["layer"], again["layer"])
        assert not torch.equal(first["layer"], other["layer"])

    def test_nested_twins_do_not_start_alike_and_follow_the_outer_seed(self):
        first, again, other = Outer(seed=1), Outer(seed=1), Outer(seed=2)
        for system in (first, again, other):
            system.run_sync(torch.ones(2))
        state = first.get_hp_state()
        assert len({tuple(t.flatten().tolist()) for t in state.values()}) == 3
        assert all(torch.equal(state[n], again.get_hp_state()[n]) for n in state)
        assert not torch.equal(state["left.layer"], other.get_hp_state()["left.layer"])

        class Own(HyperSystem):
            def __init__(self, inner):
                super().__init__(seed=5)
                self.inner = inner

            async def run(self, x):
                return await self.inner.run(x)

        own = Own(Inner(seed=0))
        own.run_sync(torch.ones(2))
        alone = Inner(seed=0)
        alone.run_sync(torch.ones(2))
        assert torch.equal(own.get_hp_state()["inner.layer"], alone.get_hp_state()["layer"])

    def test_a_function_used_twice_shares_its_parameters_unless_named(self):
        class Twice(HyperSystem):
            def __init__(self):
                super().__init__()
                self.second = layer.named("second")

            async def run(self, x):
                return await self.second(await layer(await layer(x)))

        system = Twice()
        system.run_sync(torch.ones(2))
        assert set(system.theta) == {"layer.hp", "second.hp"}

    def test_two_functions_of_one_name_are_refused(self):
        def make():
            @hyperfunction(hp_type=LoRAWeight.create(2, 2), name="layer")
            async def other(x, hp):
                return x

            return other

        class Clash(HyperSystem):
            async def run(self, x):
                return await make()(await layer(x))

        with pytest.raises(ConfigurationError, match=r"two functions named 'layer'.*named\("):
            Clash().run_sync(torch.ones(2))

    def test_a_nested_system_that_is_no_attribute_is_refused(self):
        class Hidden(HyperSystem):
            async def run(self, x):
                return await Inner().run(x)

        with pytest.raises(UnboundError, match="assign it to an attribute"):
            Hidden().run_sync(torch.ones(2))

    def test_a_system_inside_itself_is_refused(self):
        system, inner = Outer(), Inner()
        inner.outer = system
        with pytest.raises(ConfigurationError, match="inside itself"):
            system.loop = inner

    def test_state_replaced_under_a_run_in_flight_is_not_seen_by_it(self):
        gate = asyncio.Event()

        class Waiting(HyperSystem):
            async def run(self, x):
                first = await layer(x)
                await gate.wait()
                return first, await layer(x)

        async def main():
            system = Waiting()
            system.register_hyperfunction(layer, hp_init=torch.eye(2))
            running = asyncio.create_task(system.run(torch.ones(2)))
            await asyncio.sleep(0)
            system.set_hp_state({"layer": torch.zeros(2, 2)})
            gate.set()
            return await running

        first, second = asyncio.run(main())
        assert torch.equal(first, second)

    def test_setting_state_is_all_or_nothing(self):
        system = Outer()
        system.run_sync(torch.ones(2))
        before = system.theta
        with pytest.raises(ShapeError):
            system.set_theta({"left.layer.hp": torch.zeros(2, 2), "right.layer.hp": torch.zeros(3, 3)})
        with pytest.raises(UnknownParameterError, match="did you mean"):
            system.set_hp_state({"left.laier": torch.zeros(2, 2)})
        assert system.theta == before

    def test_states_handed_out_are_copies(self):
        system = Inner()
        system.register_hyperfunction(layer, hp_init=torch.eye(2))
        system.get_hp_state()["layer"].zero_()
        assert system.run_sync(torch.ones(2)).tolist() == [1.0, 1.0]

    def test_flat_initial_values_are_reshaped_and_wrong_ones_refused(self):
        system = Inner()
        system.register_hyperfunction(layer, hp_init=torch.tensor([1.0, 0.0, 0.0, 1.0]))
        assert system.run_sync(torch.tensor([3.0, 4.0])).tolist() == [3.0, 4.0]
        with pytest.raises(ShapeError, match=r"expected shape \[2, 2\], got \[3\]"):
            Inner().register_hyperfunction(layer, hp_init=torch.ones(3))

    def test_save_and_partial_load(self, tmp_path):
        system = Outer()
        system.run_sync(torch.ones(2))
        save_theta(system.theta.select(["left.layer.hp"]), tmp_path / "part")
        other = Outer(seed=9)
        other.run_sync(torch.ones(2))
        kept = other.get_hp_state()["layer"]
        other.load(tmp_path / "part")
        assert torch.equal(other.get_hp_state()["left.layer"], system.get_hp_state()["left.layer"])
        assert torch.equal(other.get_hp_state()["layer"], kept)

    def test_modules_take_their_attribute_name(self):
        class Nets(HyperSystem):
            def __init__(self):
                super().__init__()
                self.first = hyperfunction(evolve=lambda n, p: True)(nn.Linear(2, 2))
                self.second = hyperfunction(evolve=lambda n, p: n == "bias")(nn.Linear(2, 2))

            async def run(self, x):
                return await self.second(await self.first(x))

        system = Nets()
        assert set(system.theta) == {"first.weight", "first.bias", "second.bias"}
        assert system.run_sync(torch.ones(2)).shape == (2,)

    async def test_run_sync_inside_a_loop_says_what_to_write(self):
        with pytest.raises(RuntimeError, match=r"await system\.run"):
            Inner().run_sync(torch.ones(2))

    def test_run_must_be_async(self):
        with pytest.raises(ConfigurationError, match="async def"):

            class Wrong(HyperSystem):
                def run(self, x):
                    return x


class TestParameterTypes:
    def test_space_gives_exact_values(self):
        kind = Space.create("Router", t=Float(0, 1), k=Integer(1, 8), model=Choice(["small", "large"], initial="large"))
        first = kind.from_tensor(kind.default_init())
        assert (float(first.t), first.k, first.model) == (0.5, 4, "large")
        moved = kind.from_tensor(torch.tensor([1.7, 7.6, 0.9, 0.1]))
        assert (float(moved.t), moved.k, moved.model) == (1.0, 8, "small")
        assert get_hp_shape(kind) == (4,)
        again = kind.from_tensor(moved.to_tensor())
        assert (float(again.t), again.k, again.model) == (1.0, 8, "small")

    @pytest.mark.parametrize(
        "dimensions",
        [{}, {"x": Float(1, 1)}, {"k": Integer(3, 2)}, {"m": Choice(["one"])}, {"x": Float(0, 1, initial=2)}],
    )
    def test_impossible_spaces_are_refused(self, dimensions):
        with pytest.raises(ParameterError):
            Space.create("S", **dimensions)

    def test_lm_parameters_round_trip_inside_their_bounds(self):
        value = LMParam(temperature=0.3, top_p=0.9, presence_penalty=-1.0)
        assert LMParam.from_tensor(value.to_tensor()) == value
        wild = LMParam.from_tensor(torch.tensor([9.0, -1.0, 5.0, -5.0, 0.0]))
        assert (wild.temperature, wild.top_p, wild.presence_penalty, wild.frequency_penalty) == (2.0, 0.01, 2.0, -2.0)
        assert value.to_litellm_kwargs(1000) == {
            "temperature": 0.3,
            "top_p": 0.9,
            "max_tokens": 250,
            "presence_penalty": -1.0,
        }

    def test_adapter_meta_and_lora(self):
        assert torch.equal(AdapterMeta().to_tensor(), torch.tensor([1.0, 1.0, 0.0, 0.5]))
        kind = LoRAWeight.create(2, 3, noise_rank=1)
        assert (get_hp_shape(kind), get_hp_noise_rank(kind), kind.dim()) == ((2, 3), 1, 6)
        assert kind.from_tensor(torch.arange(6.0)).weight.shape == (2, 3)
        assert get_hp_default_init(kind).shape == (2, 3)
        for unsized in (LoRAWeight.shape, LoRAWeight.dim, LoRAWeight.noise_rank):
            with pytest.raises(ParameterError, match=r"LoRAWeight\.create"):
                unsized()

    def test_a_trainable_text_needs_a_description(self):
        with pytest.raises(ParameterError, match="description"):
            TextParam("x")
        assert TextParam("x", trainable=False).value == "x"
        with pytest.raises(ParameterTypeError):
            TextParam(object(), "what")

    def test_bounds_are_checked(self):
        class Wrong:
            @classmethod
            def shape(cls):
                return (2,)

            @classmethod
            def bounds(cls):
                return [0.0, 1.0], [1.0, 1.0]

            @classmethod
            def from_tensor(cls, t):
                return cls()

        with pytest.raises(ParameterError, match="low < high"):
            hyperfunction(hp_type=Wrong)(_takes_hp)


def _takes_hp(x, hp):
    return x


def test_a_name_that_nobody_has_says_what_there_is():
    assert str(UnknownParameterError("b.hp", ["a.hp"])).endswith("'b.hp'; did you mean 'a.hp'? known: a.hp")
    assert str(UnknownParameterError("nothing", ["a.hp"])).endswith("'nothing'; known: a.hp")
    assert str(UnknownParameterError("a.hp", [])).endswith("so run the program once before")
