"""What turns out to be different from what was thought: memory, devices, the configuration.

Counterpart: `intake`, which notes everything else. Nothing is decided here but what is true now.
"""

from __future__ import annotations

from collections.abc import Mapping

from llm_router.core.acts import Acts
from llm_router.core.commands import Refusal
from llm_router.core.decisions import Action
from llm_router.core.device import Reserved, devices_for
from llm_router.core.events import DeviceMeasured, InstanceAdopted, InstanceParked, MemoryMeasured, ModelsChanged
from llm_router.core.geometry import by_device, spread
from llm_router.core.instance import Instance, Lifecycle
from llm_router.core.model import ModelState
from llm_router.core.specs import ModelSpec
from llm_router.core.state import State, slots_of

# What a model that ran out of memory gets more the next time.
_MORE_ROOM = 1.25


class Changes:
    def __init__(self, state: State, acts: Acts) -> None:
        self._state = state
        self._acts = acts

    def note(self, event: InstanceParked | MemoryMeasured | DeviceMeasured | ModelsChanged) -> None:
        self._state.remeasured()
        match event:
            case InstanceParked():
                self._note_parked(event)
            case MemoryMeasured():
                self._note_memory(event)
            case DeviceMeasured():
                self._note_device(event)
            case ModelsChanged():
                self._note_models(event)

    def _note_memory(self, event: MemoryMeasured) -> None:
        """Corrects the reservation, and what the model's next start reserves. A declared footprint is only raised, and
        so is that of an instance that still loads: it isn't done growing. Who lives beside everything stays there. What
        is parked, or on the way there, says nothing about a start."""
        instance = self._state.live.get(event.instance)
        if instance is None or not instance.reserved:
            return
        if instance.lifecycle is Lifecycle.PARKED:
            self._note_residue(instance, event.used_mib)
        if instance.lifecycle in (Lifecycle.PARKED, Lifecycle.PARKING):
            return
        measured_mib = by_device(event.used_mib, instance, self._state)
        if not measured_mib:
            return
        instance.measured_mib = measured_mib
        known_mib = {name: need for name, need in instance.reserved.items() if need is not None}
        raises_only = instance.model.spec.is_declared or instance.is_starting
        if raises_only and len(known_mib) < len(instance.reserved):
            return
        if raises_only:
            measured_mib = {
                name: max(measured_mib.get(name, 0), known_mib.get(name, 0)) for name in {**known_mib, **measured_mib}
            }
        instance.reserved = {**dict.fromkeys(instance.reserved, 0), **measured_mib}
        self._learn(instance.model, measured_mib, "that is what it was seen to hold")

    def _note_parked(self, event: InstanceParked) -> None:
        """It was told to, or it was adopted like that."""
        instance = self._state.live.get(event.instance)
        if instance is None:
            return
        is_found_so = instance.is_starting and instance.is_adopted and not instance.is_waking
        if is_found_so or instance.lifecycle is Lifecycle.PARKING:
            instance.lifecycle = Lifecycle.PARKED
            self._note_residue(instance, event.held_mib or {})

    def _note_residue(self, instance: Instance, held_mib: Mapping[str, int]) -> None:
        """What it still holds now that it is parked, where something of it can be measured: else as much as before."""
        residue_mib = by_device(held_mib, instance, self._state)
        if residue_mib and instance.reserved:
            instance.reserved = {**dict.fromkeys(instance.reserved, 0), **residue_mib}

    def reserve_more(self, instance: Instance) -> bool:
        """It ran out of memory with what it had: its next start reserves more, at least what it was seen to hold, at
        most all that its devices have. Whether that start could have more room at all: not if it had its devices whole
        and to itself already."""
        self._state.remeasured()
        raised: dict[str, int] = {}
        for name, need in instance.reserved.items():
            if need is None:
                return instance.had_company
            more = max(int(need * _MORE_ROOM) + 1, instance.measured_mib.get(name, 0))
            budget_mib = self._state.devices[name].nominal_mib
            raised[name] = more if budget_mib is None else max(need, min(more, budget_mib))
        has_less = raised != instance.reserved
        if has_less:
            self._learn(instance.model, raised, "it ran out of memory")
        return has_less or instance.had_company

    def _learn(self, model: ModelState, by_device_mib: dict[str, int], why: str) -> None:
        if model.footprint_mib == 0:
            return
        before_mib, after_mib = model.footprint_mib, max(1, sum(by_device_mib.values()))
        model.measured_mib, model.footprint_mib = by_device_mib, after_mib
        if after_mib != before_mib:
            before = "unknown" if before_mib is None else f"{before_mib} MiB"
            self._acts.note(model.name, Action.FOOTPRINT_CHANGED, f"{before} became {after_mib} MiB: {why}")

    def _note_device(self, event: DeviceMeasured) -> None:
        """A device without a budget isn't ours to use."""
        device = self._state.devices.get(event.device)
        if device is None:
            return
        before_mib = device.budget_mib
        device.is_gone = event.available_mib is None
        if event.available_mib is not None:
            device.available_mib = max(0, event.available_mib)
            device.most_mib = max(device.available_mib, device.most_mib or 0)
        after_mib = device.budget_mib
        if before_mib != after_mib:
            has_less = after_mib is not None and (before_mib is None or after_mib < before_mib)
            reason = "it is gone" if device.is_gone else f"models may use {after_mib} MiB of it now"
            self._acts.note(device.name, Action.SHRANK if has_less else Action.RESTORED, reason)

    def _note_models(self, event: ModelsChanged) -> None:
        """What runs is kept unless its launch changed; what isn't there any more serves nobody new."""
        state = self._state
        for name in [name for name in state.models if name not in event.models]:
            self._remove(state.models.pop(name))
        for name, spec in event.models.items():
            model = state.models.get(name)
            if model is None:
                model = state.models[name] = state.still_leaving(name) or state.new_model(spec)
            self._respec(model, spec)
        for instance in state.live.values():
            spec_now = event.models.get(instance.model.name)
            if spec_now is None or spec_now.launch_key != instance.launch_key:
                instance.unload_wanted = instance.is_outdated = True
            elif instance.is_outdated:
                instance.unload_wanted = instance.is_outdated = False

    def _respec(self, model: ModelState, spec: ModelSpec) -> None:
        """What the configuration says holds at once; what was learned stays unless it says something else about it."""
        before, model.spec = model.spec, spec
        model.names = self._state.names_for(spec)
        instance = model.instance
        if spec.launch_key != before.launch_key:
            model.failure, model.failed_loads, model.ran_out = None, 0, False
        if (spec.footprint_mib, spec.devices) != (before.footprint_mib, before.devices):
            model.footprint_mib, model.measured_mib = spec.footprint_mib, {}
            if instance is not None and spec.launch_key == instance.launch_key:
                instance.reserved = spread(model, tuple(instance.reserved) or self._usual(model))
        if instance is not None:
            instance.slots, instance.seats = slots_of(spec), spec.seats
        if spec.unusable is not None:
            self._state.drop_wish(model)
            for request in list(model.queue):
                self._acts.reject_waiting(model, request, Refusal.LOAD_FAILED, spec.unusable)

    def _usual(self, model: ModelState) -> tuple[str, ...]:
        devices = self._state.devices
        return tuple(name for name in devices_for(model.spec, devices) if name in devices)

    def _remove(self, model: ModelState) -> None:
        self._state.drop_wish(model)
        detail = f"cannot serve {model.name} any more: it was removed from the configuration"
        for request in list(model.queue):
            self._acts.reject_waiting(model, request, Refusal.NOT_READY, detail)

    def adopted(self, model: ModelState, event: InstanceAdopted) -> Reserved:
        """Where it runs: as it says, else wherever it might."""
        named = tuple(name for name in event.devices if name in self._state.devices)
        return spread(model, named or self._usual(model))
