/** The API of levers, drains, lists and `top`, at a real owner with its journal on a disk. */
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { test } from 'node:test'
import { z } from 'zod'
import { openJournal } from '../../src/node/owner/journal.ts'
import { ImageApi } from '../../src/node/images/image-api.ts'
import { Owner } from '../../src/node/owner/owner.ts'
import { OwnerApi } from '../../src/node/owner/owner-api.ts'
import { Survey } from '../../src/node/owner/survey.ts'
import { openActionCache } from '../../src/store/action-cache.ts'
import {
  DrainView,
  JobView,
  NodeView,
  Problem,
  RequestView,
  Top,
  Undrained,
} from '../../src/wire/api.ts'
import type { Derivation } from '../../src/wire/derivation.ts'
import type { PeerRecord } from '../../src/wire/peer-record.ts'
import { SlotsView } from '../../src/wire/slots.ts'
import {
  derivation,
  environment,
  GIB,
  peerOf,
  requestId,
  requestWire,
  type RequestOptions,
} from '../scheduler/samples.ts'
import { log, temporaryDirectory, turnOver } from '../store/support.ts'
import { signerOf } from '../wire/samples.ts'
import { never } from './hosts.ts'
import { ManualClock } from './manual-clock.ts'

/** An owner with one journal, which may be opened again. */
class Bench implements AsyncDisposable {
  readonly clock = new ManualClock()
  readonly #stack = new AsyncDisposableStack()
  readonly #directory: string
  #owner: Owner | undefined
  #api: OwnerApi | undefined
  #journal: AsyncDisposable | undefined
  #actions: AsyncDisposable | undefined

  private constructor(directory: string) {
    this.#directory = directory
    this.clock.step(1_000_000)
  }

  static async open(): Promise<Bench> {
    const directory = temporaryDirectory()
    const bench = new Bench(directory.path)
    bench.#stack.use(directory)
    await bench.start()
    return bench
  }

  async start(): Promise<void> {
    const signer = signerOf('owner')
    const journal = await openJournal({ directory: join(this.#directory, 'journal') })
    const actions = await openActionCache({ log }, { directory: join(this.#directory, 'actions') })
    this.#journal = journal
    this.#actions = actions
    const { clock } = this
    const self = (): PeerRecord => ({
      peerId: signer.peerId,
      name: 'root',
      roles: ['root'],
      addresses: [],
      http: null,
    })
    const owner = new Owner({
      clock,
      log,
      journal,
      actions,
      signer,
      ownBlobBytes: () => 0,
      onResult() {},
      providersOf: () => [],
      onCopy() {},
      onCheck() {},
      hasParents: false,
      onUplink() {},
      onCommitted() {},
      resultsAbove: async () => [],
    })
    await owner.start()
    this.#owner = owner
    const survey = new Survey({ clock, owner, self, subtrees: () => [] })
    const images = new ImageApi({
      images: owner.scheduler.state.images,
      wallMs: () => clock.wallMs(),
      record: (fact) => owner.applyDurably({ type: 'image', fact }),
      keeper: { of: () => ({ stores: [], problem: undefined }) },
      onChange() {},
    })
    this.#api = new OwnerApi({ owner, actions, self, survey, images, signal: never })
  }

  get #isLookingUp(): boolean {
    for (const jobs of this.owner.scheduler.state.openJobs.values())
      for (const { phase } of jobs) if (phase === 'lookup') return true
    return false
  }

  get owner(): Owner {
    assert(this.#owner !== undefined)
    return this.#owner
  }

  /** Stops it, and begins anew with what is on the disk. */
  async restart(): Promise<void> {
    await this.#close()
    await this.start()
  }

  async #close(): Promise<void> {
    await this.owner.stop()
    await this.#journal?.[Symbol.asyncDispose]()
    await this.#actions?.[Symbol.asyncDispose]()
  }

  async submit(
    name: string,
    derivations: readonly Derivation[],
    options: RequestOptions = {},
  ): Promise<void> {
    await this.owner.submit(requestWire(name, derivations, options))
    // The look-up of stored results comes back on a later turn.
    while (this.#isLookingUp) await turnOver()
    await this.owner.synced()
  }

  node(name: string): void {
    const record = {
      peerId: peerOf(name),
      name,
      roles: ['worker' as const],
      addresses: [],
      http: null,
    }
    this.owner.attach(record, { mesh: '0', protocols: [] }, '1', { requestDesired() {} })
    this.owner.sync(record.peerId, {
      type: 'sync',
      seq: 1,
      ackSeq: 0,
      state: 'ready',
      note: '',
      environments: [environment()],
      capacity: { cpus: 4, memoryBytes: 16 * GIB, diskBytes: 100 * GIB },
      running: [],
      finished: [],
    })
  }

  async call<T>(
    schema: z.ZodType<T>,
    verb: 'GET' | 'POST',
    path: string,
    body: object | string = '',
  ): Promise<T> {
    const answer = await this.#answer(verb, path, body)
    assert.equal(answer.status, 200, answer.body)
    return schema.parse(JSON.parse(answer.body))
  }

  async problem(verb: 'GET' | 'POST', path: string, body: object | string = ''): Promise<Problem> {
    const answer = await this.#answer(verb, path, body)
    const problem = Problem.parse(JSON.parse(answer.body))
    assert.equal(problem.status, answer.status)
    return problem
  }

  #answer(verb: 'GET' | 'POST', path: string, body: object | string) {
    assert(this.#api !== undefined)
    const text = typeof body === 'string' ? body : JSON.stringify(body)
    return this.#api.answer({ verb, path, body: text, user: 'ann', hops: 0 })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#close()
    await this.#stack.disposeAsync()
  }
}

test('lever-api: a drain is durable before it is answered, and names what it matches and what runs there', async () => {
  await using bench = await Bench.open()
  bench.node('ci-1')
  await bench.submit('r', [derivation('a')])
  const drained = await bench.call(DrainView, 'POST', '/api/nodes/drain', {
    selector: 'ci-*',
    reason: 'new kernel',
    deadlineMs: 60_000,
  })
  assert.deepEqual([drained.selector, drained.by, drained.reason], ['ci-*', 'ann', 'new kernel'])
  assert.deepEqual(
    drained.nodes.map(({ name, state }) => [name, state]),
    [['ci-1', 'drained']],
    'the grant that nobody began was taken back',
  )
  const [row] = await bench.call(z.array(NodeView), 'GET', '/api/nodes')
  assert.deepEqual([row?.state, row?.drain?.by], ['drained', 'ann'])
  await bench.restart()
  const [again] = await bench.call(z.array(DrainView), 'GET', '/api/drains')
  assert.deepEqual([again?.id, again?.deadline], [drained.id, drained.deadline])
  bench.node('ci-1')
  const undrained = await bench.call(Undrained, 'POST', '/api/nodes/undrain', { selector: 'ci-*' })
  assert.deepEqual(undrained, {
    drains: [{ id: drained.id, selector: 'ci-*' }],
    nodes: ['ci-1'],
  })
  assert.deepEqual(await bench.call(z.array(DrainView), 'GET', '/api/drains'), [])
  assert.deepEqual(
    await bench.call(Undrained, 'POST', '/api/nodes/undrain', { selector: 'ci-*' }),
    { drains: [], nodes: [] },
    'undrained twice is undrained',
  )
})

test('lever-api: the processors of nodes and jobs are set, listed, kept over a restart, and set free', async () => {
  await using bench = await Bench.open()
  bench.node('ci-1')
  await bench.submit('r', [derivation('a', { cpus: 1, cpusMax: 2 })])
  const order = { selector: ' ci-* ', cpus: 2, forMs: 60_000, reason: 'lunch' }
  const set = await bench.call(SlotsView, 'POST', '/api/nodes/slots', order)
  assert.deepEqual(
    set.nodes.map(({ selector, cpus, by, reason, nodes }) => [
      selector,
      cpus,
      by,
      reason,
      nodes[0]?.name,
    ]),
    [['ci-*', 2, 'ann', 'lunch', 'ci-1']],
  )
  const job = await bench.call(JobView, 'POST', '/api/jobs/a/slots', { cpus: 3 })
  assert.deepEqual([job.slots?.cpus, job.slots?.by, job.attempts.at(-1)?.cpus], [3, 'ann', 3])
  const [row] = await bench.call(z.array(NodeView), 'GET', '/api/nodes')
  assert.deepEqual([row?.slots?.cpus, row?.slots?.reason], [2, 'lunch'])
  await bench.restart()
  const all = await bench.call(SlotsView, 'GET', '/api/slots')
  assert.deepEqual(
    [all.nodes[0]?.until, all.jobs.map(({ name, cpus, by }) => [name, cpus, by])],
    [set.nodes[0]?.until, [['a', 3, 'ann']]],
  )
  bench.node('ci-1')
  const other = await bench.problem('POST', '/api/nodes/slots', { selector: 'ci-1', cpus: null })
  assert.equal(other.code, 'MESH0604')
  assert.deepEqual(other.hints, ["mesh slots 'ci-*' auto"])
  await bench.call(SlotsView, 'POST', '/api/nodes/slots', { selector: 'ci-*', cpus: null })
  await bench.call(JobView, 'POST', '/api/jobs/a/slots', { cpus: null })
  const none = { nodes: [], jobs: [] }
  assert.deepEqual(await bench.call(SlotsView, 'GET', '/api/slots'), none)
  assert.deepEqual(
    await bench.call(SlotsView, 'POST', '/api/nodes/slots', { selector: 'ci-*', cpus: null }),
    none,
    'set free twice is set free',
  )
})

test('lever-api: what cannot be set of processors is said with what to do', async () => {
  await using bench = await Bench.open()
  const wrong = async (path: string, body: object): Promise<string> =>
    (await bench.problem('POST', path, body)).code
  assert.equal(await wrong('/api/nodes/slots', { selector: 'color=red', cpus: 1 }), 'MESH0002')
  assert.equal(await wrong('/api/nodes/slots', { selector: 'a', cpus: -1 }), 'MESH0210')
  assert.equal(await wrong('/api/nodes/slots', { selector: 'a', cpus: 5_000 }), 'MESH0210')
  assert.equal(await wrong('/api/nodes/slots', { selector: 'a', cpus: 1, forMs: 0 }), 'MESH0210')
  assert.equal(await wrong('/api/jobs/a/slots', { cpus: 1 }), 'MESH0601')
  await bench.submit('r', [derivation('a')])
  assert.equal(await wrong('/api/jobs/a/slots', { cpus: 0 }), 'MESH0210')
  await bench.call(JobView, 'POST', '/api/jobs/a/cancel')
  const over = await bench.problem('POST', '/api/jobs/a/slots', { cpus: 1 })
  assert.equal(over.code, 'MESH0604')
  assert.match(over.detail, /a \(j-\S+\) is cancelled: it neither waits nor runs/)
})

test('lever-api: what cannot be drained or undrained is said with what to do', async () => {
  await using bench = await Bench.open()
  bench.node('ci-1')
  const wrong = await bench.problem('POST', '/api/nodes/drain', { selector: 'color=red' })
  assert.deepEqual([wrong.code, wrong.status], ['MESH0002', 400])
  assert.match(wrong.detail, /"color=red"/)
  assert.equal((await bench.problem('POST', '/api/nodes/drain', { selector: '' })).code, 'MESH0210')
  assert.equal((await bench.problem('POST', '/api/nodes/drain', '{')).code, 'MESH0210')
  assert.equal(
    (await bench.problem('POST', '/api/nodes/drain', { selector: 'a\0' })).code,
    'MESH0210',
  )
  await bench.call(DrainView, 'POST', '/api/nodes/drain', { selector: 'ci-*' })
  const other = await bench.problem('POST', '/api/nodes/undrain', { selector: 'ci-1' })
  assert.equal(other.code, 'MESH0604')
  assert.deepEqual(other.hints, ["mesh undrain 'ci-*'"])
})

test('lever-api: a request and a job are boosted, held and released by what people call them', async () => {
  await using bench = await Bench.open()
  await bench.submit('r', [derivation('a'), derivation('b')])
  const id = requestId('r')
  const boosted = await bench.call(RequestView, 'POST', `/api/requests/${id.slice(0, 8)}/boost`, {
    priority: 90,
  })
  assert.equal(boosted.priority, 90)
  const job = await bench.call(JobView, 'POST', '/api/jobs/a/boost', { priority: 100 })
  assert.equal(job.priority, 100)
  const held = await bench.call(RequestView, 'POST', `/api/requests/${id}/hold`, {
    reason: 'wait for the release',
  })
  assert.deepEqual([held.held?.by, held.held?.reason], ['ann', 'wait for the release'])
  const waiting = await bench.call(JobView, 'GET', '/api/jobs/b')
  assert.equal(waiting.why?.class, 'held')
  assert.equal(waiting.held?.by, 'ann')
  const wrong = await bench.problem('POST', '/api/jobs/b/release')
  assert.deepEqual([wrong.code, wrong.status], ['MESH0604', 409])
  assert.deepEqual(wrong.hints, [`mesh release ${id}`])
  await bench.restart()
  const after = await bench.call(RequestView, 'GET', `/api/requests/${id}`)
  assert.deepEqual([after.priority, after.held?.reason], [90, 'wait for the release'])
  const released = await bench.call(RequestView, 'POST', `/api/requests/${id}/release`)
  assert.equal(released.held, undefined)
  assert.equal(
    (await bench.problem('POST', '/api/jobs/a/boost', { priority: 101 })).code,
    'MESH0210',
  )
})

test('lever-api: a job is cancelled and retried; what was forgotten is said to be', async () => {
  await using bench = await Bench.open()
  await bench.submit('r', [derivation('a'), derivation('b')], { keepGoing: true })
  const cancelled = await bench.call(JobView, 'POST', '/api/jobs/a/cancel')
  assert.equal(cancelled.state, 'cancelled')
  assert.equal((await bench.call(JobView, 'POST', '/api/jobs/a/cancel')).state, 'cancelled')
  assert.equal((await bench.problem('POST', '/api/jobs/a/hold')).code, 'MESH0604')
  const retried = await bench.call(JobView, 'POST', '/api/jobs/a/retry', { rebind: false })
  assert.equal(retried.state, 'waiting')
  const id = requestId('r')
  assert.equal(
    (await bench.call(RequestView, 'POST', `/api/requests/${id}/cancel`)).state,
    'cancelled',
  )
  assert.equal((await bench.problem('POST', `/api/requests/${id}/hold`)).code, 'MESH0604')
  assert.equal(
    (await bench.call(RequestView, 'POST', `/api/requests/${id}/retry`)).state,
    'waiting',
  )
  const gone = await bench.problem('POST', '/api/requests/r-zzzzzzzz/retry')
  assert.deepEqual([gone.code, gone.status], ['MESH0601', 404])
  assert.match(gone.detail, /no longer: only the newest finished requests are kept/)
})

test('lever-api: lists are narrowed down by state, user, node, name and number', async () => {
  await using bench = await Bench.open()
  await bench.submit('r', [derivation('lib-a'), derivation('lib-b'), derivation('app')], {
    user: 'dev/ann',
  })
  await bench.submit('s', [derivation('tool', { cpus: 64 })], { user: 'dev/bob' })
  bench.node('ci-1')
  const names = async (query: string): Promise<string[]> =>
    (await bench.call(z.array(JobView), 'GET', `/api/jobs${query}`)).map(({ name }) => name)
  assert.deepEqual(await names(''), ['tool', 'lib-a', 'lib-b', 'app'])
  assert.deepEqual(await names('?name=lib-*'), ['lib-a', 'lib-b'])
  assert.deepEqual(await names('?user=dev/bob'), ['tool'])
  assert.deepEqual(await names('?limit=2'), ['tool', 'lib-a'])
  assert.deepEqual(await names('?state=waiting'), ['tool'])
  assert.deepEqual(await names('?state=leased,waiting&limit=9'), ['tool', 'lib-a', 'lib-b', 'app'])
  assert.deepEqual(await names('?node=ci-*&name=app'), ['app'])
  assert.deepEqual(await names(`?request=${requestId('s')}`), ['tool'])
  const requests = async (query: string): Promise<string[]> =>
    (await bench.call(z.array(RequestView), 'GET', `/api/requests${query}`)).map(({ user }) => user)
  assert.deepEqual(await requests('?state=running'), ['dev/ann'])
  assert.deepEqual(await requests('?user=dev/*&limit=1'), ['dev/bob'])
  assert.deepEqual(await requests('?state=done'), [])
  const wrong = await bench.problem('GET', '/api/jobs?state=sleeping')
  assert.deepEqual(
    [wrong.code, wrong.hints],
    ['MESH0002', ['states: waiting, leased, running, done, failed, cancelled']],
  )
  assert.equal((await bench.problem('GET', '/api/jobs?limit=-1')).code, 'MESH0002')
})

test('lever-api: top tells what runs, why the rest waits, and how often things start', async () => {
  await using bench = await Bench.open()
  bench.node('ci-1')
  await bench.submit('r', [
    derivation('a', { cpus: 4 }),
    derivation('b', { cpus: 4 }),
    derivation('c', { cpus: 4 }),
    derivation('d', { after: ['a'] }),
  ])
  await bench.submit('s', [derivation('e')])
  await bench.call(JobView, 'POST', '/api/jobs/e/hold', { reason: 'later' })
  bench.clock.step(5_000)
  const top = await bench.call(Top, 'GET', '/api/top')
  assert.deepEqual(top.totals.jobs, { waiting: 3, running: 1 })
  assert.deepEqual(
    top.running.map(({ name, node, phase, forMs }) => [name, node, phase, forMs]),
    [['a', 'ci-1', 'leased', 5_000]],
  )
  assert.deepEqual(
    top.waiting.map(({ class: wait, text, count }) => [wait, text, count]),
    [
      ['busy', 'waiting for room: x86_64-linux, 4 cpus', 2],
      ['held', 'held by ann: later', 1],
      ['inputs', 'waiting for other jobs', 1],
    ],
  )
  assert.deepEqual(
    top.nodes.map(({ name, state, cpus, busy, running }) => [name, state, cpus, busy, running]),
    [['ci-1', 'ready', 4, 4, 1]],
  )
  assert((top.totals.perSecond?.started ?? 0) > 0)
  // What another watcher asks within half a second is the same.
  assert.equal((await bench.call(Top, 'GET', '/api/top')).at, top.at)
  bench.clock.step(1_000)
  assert.notEqual((await bench.call(Top, 'GET', '/api/top')).at, top.at)
})
