/** A request as its graph makes it: steps that know each other, before anything has happened to them. */
import assert from 'node:assert/strict'
import { derivedId } from '../base/random.ts'
import { dependenciesOf } from '../wire/derivation.ts'
import type { RequestWire } from '../wire/facts.ts'
import type { Request, Step } from './model.ts'

/** The id that people use for a derivation of a request. */
function stepId(request: string, derivation: string): string {
  return derivedId('j', `${request}/${derivation}`)
}

/** Dependencies before dependents. The graph has no circle: it was checked before it was accepted. */
export function topological(steps: readonly Step[]): Step[] {
  const ordered: Step[] = []
  const missing = new Map(steps.map((step) => [step, step.dependencies.length]))
  const ready = steps.filter((step) => step.dependencies.length === 0)
  for (let step = ready.pop(); step !== undefined; step = ready.pop()) {
    ordered.push(step)
    for (const dependent of step.dependents) {
      const left = (missing.get(dependent) ?? 0) - 1
      missing.set(dependent, left)
      if (left === 0) ready.push(dependent)
    }
  }
  assert(ordered.length === steps.length, 'the graph has a circle')
  return ordered
}

/** A request whose steps are linked and have their heights. Its graph was checked before. */
export function makeRequest(wire: RequestWire, seq: number): Request {
  const steps = new Map<string, Step>()
  const request: Request = {
    wire,
    seq,
    steps,
    state: 'active',
    unsettledCount: wire.graph.derivations.length,
    failedCount: 0,
    cancelledCount: 0,
    boost: undefined,
    hold: undefined,
    isPartial: false,
    detachable: false,
    takesCopy: wire.takesCopy === true,
    bindings: bindingsOf(wire),
    bytes: { peer: 0, mirror: 0, local: 0 },
    ahead: { cpuMs: 0, count: 0 },
    rootBytes: 0,
    rootBytesBefore: 0,
    endedAtWall: undefined,
    replicasAtEnd: undefined,
    notices: [],
  }
  const wanted = new Set(wire.graph.wanted)
  for (const [index, derivation] of wire.graph.derivations.entries()) {
    steps.set(derivation.name, {
      id: stepId(wire.id, derivation.name),
      request,
      derivation,
      index,
      isWanted: wanted.has(derivation.name),
      dependents: [],
      dependencies: [],
      height: 0,
      criticalMs: 0,
      phase: 'blocked',
      job: undefined,
      earlier: [],
      key: undefined,
      outputs: undefined,
      stores: new Map(),
      hasDiverged: false,
      agreed: 0,
      action: undefined,
      log: undefined,
      exitCode: 0,
      cached: false,
      rewinds: 0,
      // An audit is to build, not to find.
      rebuild: wire.audits !== undefined,
      failure: undefined,
      boost: undefined,
      hold: undefined,
      slots: undefined,
    })
  }
  for (const step of steps.values()) {
    for (const name of dependenciesOf(step.derivation)) {
      const dependency = steps.get(name)
      assert(dependency !== undefined, 'graphs are checked before they are accepted')
      step.dependencies.push(dependency)
      dependency.dependents.push(step)
    }
  }
  for (const step of topological([...steps.values()]).toReversed())
    step.height =
      1 + step.dependents.reduce((height, dependent) => Math.max(height, dependent.height), 0)
  return request
}

/** What is compared with an earlier build is made with the userland of that one. */
function bindingsOf({ audits }: RequestWire): Request['bindings'] {
  if (audits === undefined || audits.vote.userland === null) return new Map()
  return new Map([[audits.vote.system, audits.vote.userland]])
}
