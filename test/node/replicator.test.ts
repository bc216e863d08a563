/** Copies and checks for the scheduler: whichever way there is, and an event at the end whatever happens. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Replicator } from '../../src/node/owner/replicator.ts'
import type { Carry } from '../../src/node/owner/carry.ts'
import type { Event } from '../../src/scheduler/events.ts'
import type { Digest } from '../../src/wire/digest.ts'
import type { PeerRecord } from '../../src/wire/peer-record.ts'
import { fileEntry } from '../scheduler/samples.ts'
import { log, StepClock, turnOver } from '../store/support.ts'

const record = (peerId: string): PeerRecord => ({
  peerId,
  name: peerId,
  roles: ['store'],
  addresses: [],
  http: null,
})
const entry = fileEntry('output')
assert(entry.kind !== 'symlink')
const { digest } = entry

class Bench {
  readonly clock = new StepClock()
  readonly events: Event[] = []
  readonly calls: string[] = []
  readonly copied: string[] = []
  readonly connected = new Set(['s1', 'w1', 'w2'])
  /** What a call answers; one that is not here never does. */
  answers = new Map<string, boolean | Error>()
  held = new Map<string, readonly Digest[] | Error>()
  readonly replicator = new Replicator({
    clock: this.clock,
    log,
    apply: (event) => this.events.push(event),
    recordOf: (peerId) => (this.connected.has(peerId) ? record(peerId) : undefined),
    providersOf: () => ['w2', 'away'],
    onCopied: (_, peerId) => this.copied.push(peerId),
    carry: (peerId, call, signal) => this.#carry(peerId, call, signal),
    check: async (peerId) => {
      const held = this.held.get(peerId) ?? []
      if (held instanceof Error) throw held
      return { held: [...held] }
    },
  })

  #carry(peerId: string, call: Carry, signal: AbortSignal) {
    const what =
      call.method === 'pull'
        ? `${peerId} pulls from ${call.from.map(({ name }) => name).join()}`
        : `${peerId} pushes to ${call.to.name}`
    this.calls.push(what)
    const answer = this.answers.get(what)
    if (answer instanceof Error) return Promise.reject(answer)
    if (answer !== undefined)
      return Promise.resolve({ ok: answer, bytes: 1, message: answer ? '' : 'refused' })
    return new Promise<never>((_resolve, reject) => {
      signal.addEventListener('abort', () => reject(signal.reason), { once: true })
    })
  }

  copy(): void {
    this.replicator.copy({ id: 'c-1', entries: [entry], from: ['w1'], to: 's1' })
  }

  async ended(): Promise<Event> {
    for (let turn = 0; turn < 100 && this.events.length === 0; turn += 1) await turnOver()
    const [event] = this.events
    assert(event !== undefined, 'an event came')
    return event
  }
}

test('replicator: a store that reaches one who has it gets it', async () => {
  const bench = new Bench()
  bench.answers.set('s1 pulls from w1,w2', true)
  bench.copy()
  assert.deepEqual(await bench.ended(), { type: 'copied', copy: 'c-1', ok: true, message: '' })
  assert.deepEqual([bench.calls.length, bench.copied], [1, ['s1']])
})

test('replicator: a store that reaches nobody is offered it by those who reach the store', async () => {
  const bench = new Bench()
  bench.answers.set('s1 pulls from w1,w2', false)
  bench.answers.set('w1 pushes to s1', new Error('no route'))
  bench.answers.set('w2 pushes to s1', true)
  bench.copy()
  assert.deepEqual(await bench.ended(), { type: 'copied', copy: 'c-1', ok: true, message: '' })
})

test('replicator: when there is no way the event says what was tried', async () => {
  const bench = new Bench()
  bench.answers.set('s1 pulls from w1,w2', false)
  bench.answers.set('w1 pushes to s1', new Error('no route'))
  bench.answers.set('w2 pushes to s1', false)
  bench.copy()
  assert.deepEqual(await bench.ended(), {
    type: 'copied',
    copy: 'c-1',
    ok: false,
    message: 'pull at s1: refused; push at w1: no route; push at w2: refused',
  })
  assert.deepEqual(bench.copied, [])
})

test('replicator: a copy that hangs is given up', async () => {
  const bench = new Bench()
  bench.copy()
  await turnOver()
  bench.clock.step(600_000)
  const event = await bench.ended()
  assert(event.type === 'copied' && !event.ok)
  assert.match(event.message, /not copied within 10 min/)
})

test('replicator: a store that is gone ends the copy at once', async () => {
  const bench = new Bench()
  bench.connected.delete('s1')
  bench.copy()
  const event = await bench.ended()
  assert(event.type === 'copied' && !event.ok)
  assert.deepEqual(bench.calls, [])
})

test('replicator: nothing is told once the node stops', async () => {
  const bench = new Bench()
  bench.copy()
  await turnOver()
  bench.replicator[Symbol.dispose]()
  for (let turn = 0; turn < 10; turn += 1) await turnOver()
  assert.deepEqual(bench.events, [])
})

test('replicator: who does not answer a check does not have it', async () => {
  const bench = new Bench()
  bench.held.set('w1', [digest])
  bench.held.set('w2', new Error('connection lost'))
  bench.replicator.check('a-1', [{ entry, peers: ['w1', 'w2', 's1'] }])
  const event = await bench.ended()
  assert(event.type === 'checked')
  assert.deepEqual([...event.held], [[digest, ['w1']]])
})
