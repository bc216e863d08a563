/** Levers in any order, between builds, failures, refusals and restarts: counts hold, replay agrees, and all ends well. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isLive, type Request } from '../../src/scheduler/model.ts'
import { Dice } from '../sim/dice.ts'
import { derivation, requestId, type DerivationOptions } from './samples.ts'
import { broken, World, type WorldNode } from './world.ts'

const SEEDS = 30
const STEPS = 120
const NODES = ['ci-1', 'ci-2', 'dev-1']
const REQUESTS = ['r', 's', 't']

/** What facts alone must give again. */
function durable(world: World): unknown {
  const { state } = world.scheduler
  return {
    requests: [...state.requests.values()].map((request) => ({
      id: request.wire.id,
      state: request.state,
      boost: request.boost,
      hold: request.hold,
      isPartial: request.isPartial,
      counts: [request.unsettledCount, request.failedCount, request.cancelledCount],
      steps: [...request.steps.values()].map(({ phase, boost, hold, failure, outputs, job }) => [
        phase,
        boost,
        hold,
        failure?.code,
        outputs,
        job?.id,
        job?.attempts.map((attempt) => [isLive(attempt), attempt.cause]),
      ]),
    })),
    drains: [...state.nodeFacts.drains.values()].map(({ selector, deadlineWall }) => [
      selector,
      deadlineWall,
    ]),
    quarantines: [...state.nodeFacts.quarantines],
    deaths: [...state.nodeFacts.deaths],
    finished: [state.finished.size, state.finishedStepCount],
  }
}

function checkCounts(request: Request, seed: number): void {
  const count = (...phases: readonly string[]): number =>
    [...request.steps.values()].filter(({ phase }) => phases.includes(phase)).length
  assert.deepEqual(
    [request.unsettledCount, request.failedCount, request.cancelledCount],
    [count('blocked', 'open'), count('failed'), count('cancelled')],
    `seed ${seed}: counts of ${request.wire.id}`,
  )
}

/** What the end of one takes away from it is left out. */
function buildAllOf(node: WorldNode): void {
  for (const attempt of node.attempts) if (node.running.has(attempt)) node.build(attempt)
}

class Play {
  readonly world = new World()
  readonly #dice: Dice
  readonly #seed: number

  constructor(seed: number) {
    this.#seed = seed
    this.#dice = new Dice(seed)
    for (const name of NODES) this.world.node(name, { cpus: 2 })
    for (const name of REQUESTS) this.#submit(name)
  }

  #submit(name: string): void {
    const options = (after: readonly string[]): DerivationOptions => ({
      after,
      run: { retries: 3 },
      // Requests share some jobs.
      args: this.#dice.chance(0.3) ? ['shared', ...after] : [name, ...after, 'own'],
    })
    this.world.submit(
      name,
      [
        derivation('a', options([])),
        derivation('b', { ...options(['a']), args: [name, 'b'] }),
        derivation('c', { ...options(['a']), args: [name, 'c'] }),
        derivation('d', { ...options(['b', 'c']), args: [name, 'd'] }),
        derivation('e', { ...options([]), args: [name, 'e'] }),
      ],
      { keepGoing: this.#dice.chance(0.5) },
    )
  }

  step(): void {
    const { world } = this
    const dice = this.#dice
    const node = dice.pick(world.nodes)
    const target = {
      request: requestId(dice.pick(REQUESTS)),
      derivation: dice.chance(0.6) ? dice.pick(['a', 'b', 'c', 'd', 'e']) : undefined,
    }
    const by = 'ann'
    const selector = dice.pick([...NODES, 'ci-*'])
    switch (dice.between(0, 13)) {
      case 0:
        world.apply({
          type: 'lever',
          lever: { kind: 'boost', target, priority: dice.between(0, 100) },
          by,
        })
        break
      case 1:
        world.apply({ type: 'lever', lever: { kind: 'hold', target, reason: 'why not' }, by })
        break
      case 2:
        world.apply({ type: 'lever', lever: { kind: 'release', target }, by })
        break
      case 3:
        world.apply({ type: 'lever', lever: { kind: 'cancel', target }, by })
        break
      case 4:
        world.apply({
          type: 'lever',
          lever: { kind: 'retry', target, rebind: dice.chance(0.3) },
          by,
        })
        break
      case 5: {
        const deadlineMs = dice.chance(0.5) ? dice.between(0, 20_000) : null
        const order = { selector, reason: '', deadlineMs }
        world.apply({ type: 'lever', lever: { kind: 'drain', order }, by })
        break
      }
      case 6:
        world.apply({ type: 'lever', lever: { kind: 'undrain', selector }, by })
        break
      case 7:
        this.#end(node)
        break
      case 8:
        if (node.isConnected) node.restart()
        break
      case 9:
        if (node.isConnected) node.down()
        else node.up()
        break
      case 10:
        this.restart()
        break
      default:
        for (const each of world.nodes) if (each.isConnected) buildAllOf(each)
        world.pass(dice.between(0, 8_000))
    }
    this.check()
  }

  #end(node: WorldNode): void {
    const [attempt] = node.attempts
    if (!node.isConnected || attempt === undefined) return
    if (this.#dice.chance(0.3)) node.fail(attempt)
    else if (this.#dice.chance(0.5)) node.finish(broken, attempt)
    else {
      const scope = this.#dice.pick(['job', 'name', 'all'] as const)
      node.finish({ kind: 'refused', scope, reason: 'no', forMs: 5_000 }, attempt)
    }
  }

  /** What is durable is what the journal tells. */
  restart(): void {
    const before = durable(this.world)
    const connected = this.world.nodes.filter(({ isConnected }) => isConnected)
    const replayed = new World()
    for (const fact of this.world.facts) replayed.scheduler.replay(fact)
    assert.deepEqual(durable(replayed), before, `seed ${this.#seed}: replay`)
    this.world.restart()
    for (const node of connected) node.up()
  }

  check(): void {
    const { state, drains } = this.world.scheduler
    for (const request of state.requests.values()) checkCounts(request, this.#seed)
    for (const node of this.world.nodes) {
      if (!node.isConnected) continue
      const { entry } = node
      if (drains.of(entry) === undefined) continue
      assert(['draining', 'drained'].includes(entry.state), `seed ${this.#seed}: ${entry.state}`)
      const unbegun = [...entry.attempts].filter((attempt) => isLive(attempt) && !attempt.confirmed)
      assert.deepEqual(unbegun, [], `seed ${this.#seed}: ${node.name} was granted something`)
    }
    let cpus = 0
    for (const { entry } of this.world.nodes.filter(({ isConnected }) => isConnected)) {
      cpus = Math.max(cpus, entry.allocated.cpus)
      assert(entry.allocated.cpus <= entry.capacity.cpus, `seed ${this.#seed}: ${cpus} cpus`)
    }
  }

  /** Everything is let go, and everything can be built. */
  finish(): void {
    const { world } = this
    for (const selector of [...NODES, 'ci-*'])
      world.apply({ type: 'lever', lever: { kind: 'undrain', selector }, by: 'bob' })
    for (const node of world.nodes) if (!node.isConnected) node.up()
    for (const name of REQUESTS) {
      const target = { request: requestId(name), derivation: undefined }
      world.apply({ type: 'lever', lever: { kind: 'release', target }, by: 'bob' })
      world.apply({ type: 'lever', lever: { kind: 'retry', target, rebind: false }, by: 'bob' })
    }
    for (let round = 0; round < 80 && !this.#isDone; round += 1) {
      for (const node of world.nodes) buildAllOf(node)
      world.pass(5_000)
    }
    for (const name of REQUESTS) {
      const { state, steps } = world.request(name)
      const phases = [...steps].map(
        ([each, { phase, failure }]) => `${each} ${phase} ${failure?.code ?? ''}`,
      )
      assert.equal(state, 'done', `seed ${this.#seed}: ${name}: ${phases.join(', ')}`)
    }
  }

  get #isDone(): boolean {
    return REQUESTS.every((name) => this.world.request(name).state === 'done')
  }
}

test(`levers: ${SEEDS} random histories keep their counts, are replayed as they were, and end well`, () => {
  for (let seed = 1; seed <= SEEDS; seed += 1) {
    const play = new Play(seed)
    for (let step = 0; step < STEPS; step += 1) play.step()
    play.restart()
    play.finish()
  }
})
