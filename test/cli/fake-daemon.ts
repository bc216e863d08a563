/**
 * A daemon in little: the API of wire/api.ts on a unix socket, with a store in memory and builds that
 * really run, one after the other, as plain processes on this machine.
 */
import { spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { MeshError } from '../../src/base/errors.ts'
import { matchesGlob } from '../../src/base/glob.ts'
import { hashingSink, ingest } from '../../src/files/ingest.ts'
import { layOut } from '../../src/files/lay-out.ts'
import {
  BoostOrder,
  DrainOrder,
  HoldOrder,
  RetryOrder,
  Submission,
  UndrainOrder,
  type AttemptView,
  type DrainView,
  type DryRun,
  type Event,
  type JobView,
  type NodeView,
  type RequestView,
  type Status,
  type Top,
  type Undrained,
  type Why,
} from '../../src/wire/api.ts'
import {
  dependenciesOf,
  jobKey,
  resolveDerivation,
  type Derivation,
} from '../../src/wire/derivation.ts'
import {
  EMPTY_DIGEST,
  digestFromBytes,
  isDigest,
  sha256,
  type Digest,
} from '../../src/wire/digest.ts'
import { encodeLogRecord } from '../../src/wire/log-record.ts'
import { makeAction } from '../../src/wire/action.ts'
import type { Entry } from '../../src/wire/tree.ts'

export const PEER_ID = `12D3KooW${'A'.repeat(44)}`
const NODE = 'ci-a'

interface Stored {
  readonly outputs: Record<string, Entry>
  readonly log: Buffer
}
interface FakeRequest {
  view: RequestView
  readonly jobs: FakeJob[]
  readonly outputs: Map<string, Record<string, Entry>>
  readonly listeners: Set<() => void>
  ended: boolean
}
interface FakeJob {
  view: JobView
  log: Buffer
}

export class FakeDaemon implements AsyncDisposable {
  readonly directory = mkdtempSync(join(tmpdir(), 'mesh-cli-'))
  readonly socket = join(this.directory, 'node.sock')
  readonly blobs = new Map<Digest, Buffer>()
  /** Requests whose client takes no copy after all. */
  readonly left: string[] = []
  readonly requests = new Map<string, FakeRequest>()
  /** Bytes of blobs that were uploaded, by the way they came. */
  readonly uploads = { batches: 0, singles: 0 }
  /** Requests wait in this state of mind until it is lifted. */
  hold: { class: 'unsatisfiable'; text: string } | undefined
  nodes: NodeView[] = []
  why: Why | undefined
  top: Top | undefined
  drains: DrainView[] = []
  /** The query of the last list that was asked for. */
  lastQuery = ''
  /** The dry run that is answered instead of one that is made up. */
  dryRun: DryRun | undefined
  /** What is said of a request that was accepted; undefined: this daemon cannot tell. */
  outlook: DryRun | undefined
  /** What was submitted last. */
  submission: Submission | undefined
  /** Answers with this problem document, once, to whatever comes next. */
  problem: { status: number; body: unknown } | undefined
  /** Breaks every stream of events once, after its first event. */
  breakEvents = false
  readonly #cache = new Map<Digest, Stored>()
  readonly #broken = new Set<string>()
  #server: Server | undefined
  #wake: (() => void) | undefined

  static async start(): Promise<FakeDaemon> {
    const daemon = new FakeDaemon()
    await daemon.listen()
    return daemon
  }

  async listen(): Promise<void> {
    const server = createServer((request, response) => {
      this.#handle(request, response).catch((error: unknown) => this.#fail(response, error))
    })
    this.#server = server
    await new Promise<void>((done) => server.listen(this.socket, done))
    writeFileSync(
      join(this.directory, 'node.json'),
      JSON.stringify({
        v: 1,
        name: NODE,
        peerId: PEER_ID,
        listen: [],
        http: 'http://127.0.0.1:1',
        socket: this.socket,
        pid: process.pid,
        protocols: ['/mesh/work/1'],
      }),
    )
  }

  async stop(): Promise<void> {
    const server = this.#server
    server?.closeAllConnections()
    await new Promise<void>((done) => (server === undefined ? done() : server.close(() => done())))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.release()
    await this.stop()
    rmSync(this.directory, { recursive: true, force: true })
  }

  /** Lets held requests go on. */
  release(): void {
    this.hold = undefined
    this.#wake?.()
  }

  put(bytes: Uint8Array): Digest {
    const digest = sha256(bytes)
    this.blobs.set(digest, Buffer.from(bytes))
    return digest
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    if (this.problem !== undefined) {
      const { status, body } = this.problem
      this.problem = undefined
      response
        .writeHead(status, { 'content-type': 'application/problem+json' })
        .end(JSON.stringify(body))
      return
    }
    const url = new URL(request.url ?? '/', 'http://localhost')
    const json = (value: unknown): void => {
      response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(value))
    }
    const [, area = '', kind = '', id = '', verb = ''] = url.pathname
      .split('/')
      .map(decodeURIComponent)
    const route = `${request.method} /${area}${area === 'cas' ? '' : `/${kind}${id === '' ? '' : kind === 'blobs' ? `/${id}` : '/ID'}${verb === '' ? '' : `/${verb}`}`}`
    switch (route) {
      case 'GET /api/status':
        return json(this.#status())
      case 'GET /api/nodes':
        return json(this.nodes)
      case 'GET /api/requests': {
        this.lastQuery = url.search
        const { isWanted, limit } = filterOf(url.searchParams)
        return json(
          [...this.requests.values()]
            .map(({ view }) => view)
            .filter(({ state, user }) => isWanted('state', state) && isWanted('user', user))
            .toReversed()
            .slice(0, limit),
        )
      }
      case 'GET /api/drains':
        return json(this.drains)
      case 'POST /api/nodes/ID':
        return json(
          id === 'drain'
            ? this.#drain(DrainOrder.parse(JSON.parse(String(await bodyOf(request)))))
            : this.#undrain(UndrainOrder.parse(JSON.parse(String(await bodyOf(request)))).selector),
        )
      case 'GET /api/top': {
        if (this.top === undefined) throw new MeshError('MESH0120', 'the root is away')
        return json(this.top)
      }
      case 'GET /api/requests/ID':
        return json(this.#request(id).view)
      case 'GET /api/requests/ID/outlook':
        if (this.outlook === undefined) throw new MeshError('MESH0601', 'no such thing')
        return json(this.outlook)
      case 'PUT /api/requests/ID':
        return json(this.#accept(id, Submission.parse(JSON.parse(String(await bodyOf(request))))))
      case 'GET /api/requests/ID/events':
        return this.#events(this.#request(id), response)
      case 'POST /api/requests/ID/cancel':
        return json(this.#cancel(this.#request(id)))
      case 'POST /api/requests/ID/boost':
      case 'POST /api/requests/ID/hold':
      case 'POST /api/requests/ID/release':
      case 'POST /api/requests/ID/retry': {
        const found = this.#request(id)
        found.view = pulled(found.view, verb, await bodyOf(request))
        return json(found.view)
      }
      case 'POST /api/jobs/ID/boost':
      case 'POST /api/jobs/ID/hold':
      case 'POST /api/jobs/ID/release':
      case 'POST /api/jobs/ID/retry':
      case 'POST /api/jobs/ID/cancel': {
        const found = this.#job(id)
        found.view = pulled(found.view, verb, await bodyOf(request))
        return json(found.view)
      }
      case 'POST /api/requests/ID/leave':
        this.left.push(this.#request(id).view.id)
        return json(this.#request(id).view)
      case 'POST /api/dry-run':
        return json(
          this.dryRun ?? dryRunOf(Submission.parse(JSON.parse(String(await bodyOf(request))))),
        )
      case 'GET /api/jobs': {
        const asked = url.searchParams.get('request')
        const requests = asked === null ? [...this.requests.values()] : [this.#request(asked)]
        this.lastQuery = url.search
        const { isWanted, limit } = filterOf(url.searchParams)
        return json(
          requests
            .filter(({ view }) => isWanted('user', view.user))
            .flatMap(({ jobs }) => jobs)
            .toReversed()
            .map(({ view }) => view)
            .filter(
              ({ state, name, attempts }) =>
                isWanted('state', state) &&
                isWanted('name', name) &&
                isWanted('node', attempts.at(-1)?.node ?? ''),
            )
            .slice(0, limit),
        )
      }
      case 'GET /api/jobs/ID':
        return json(this.#job(id).view)
      case 'GET /api/jobs/ID/why': {
        if (this.why === undefined) throw new MeshError('MESH0601', 'nothing waits')
        const node = url.searchParams.get('node')
        const { nodes } = this.why
        return json({
          ...this.why,
          nodes: node === null ? nodes : nodes.filter((one) => one.node === node),
        })
      }
      case 'GET /api/jobs/ID/log':
        return this.#log(
          id,
          Number(url.searchParams.get('offset') ?? 0),
          url.searchParams.has('follow'),
          response,
        )
      case 'POST /api/blobs/missing': {
        const refs: unknown = JSON.parse(String(await bodyOf(request)))
        if (!Array.isArray(refs)) throw new MeshError('MESH0002', 'no list')
        return json(
          refs
            .map(({ digest }: { digest: Digest }) => digest)
            .filter((digest) => !this.blobs.has(digest)),
        )
      }
      case 'POST /api/blobs/fetch': {
        const entries: unknown = JSON.parse(String(await bodyOf(request)))
        return json({ fetched: Array.isArray(entries) ? entries.length : 0 })
      }
      case 'POST /api/blobs':
        return json({ stored: this.#storeBatch(await bodyOf(request)) })
      case 'PUT /cas': {
        const bytes = await bodyOf(request)
        if (sha256(bytes) !== kind) throw new MeshError('MESH0502', 'wrong bytes')
        this.put(bytes)
        this.uploads.singles++
        return json({ stored: 1 })
      }
      case 'GET /cas': {
        const bytes = isDigest(kind) ? this.blobs.get(kind) : undefined
        if (bytes === undefined) throw new MeshError('MESH0601', `no blob ${kind}`)
        response.writeHead(200, { 'content-length': bytes.byteLength }).end(bytes)
        return
      }
      default:
        throw new MeshError('MESH0601', `no route ${route}`)
    }
  }

  #fail(response: ServerResponse, error: unknown): void {
    const code = error instanceof MeshError ? error.code : 'MESH0001'
    const status = code === 'MESH0601' ? 404 : 500
    const detail =
      error instanceof Error
        ? error instanceof MeshError
          ? error.message
          : (error.stack ?? '')
        : String(error)
    if (response.headersSent) response.destroy()
    else
      response
        .writeHead(status, { 'content-type': 'application/problem+json' })
        .end(JSON.stringify({ status, code, title: code, detail, hints: [] }))
  }

  #storeBatch(bytes: Buffer): number {
    let stored = 0
    for (let at = 0; at < bytes.byteLength; stored++) {
      const digest = digestFromBytes(bytes.subarray(at, at + 32))
      const size = Number(bytes.readBigUInt64BE(at + 32))
      const blob = bytes.subarray(at + 40, at + 40 + size)
      if (sha256(blob) !== digest) throw new MeshError('MESH0502', 'wrong bytes in a batch')
      this.put(blob)
      at += 40 + size
    }
    this.uploads.batches++
    return stored
  }

  #request(prefix: string): FakeRequest {
    const found = [...this.requests].find(
      ([id]) => id.startsWith(prefix) || id.startsWith(`r-${prefix}`),
    )
    if (found === undefined) throw new MeshError('MESH0601', `no request ${prefix}`)
    return found[1]
  }

  #job(prefix: string): FakeJob {
    const found = [...this.requests.values()]
      .flatMap(({ jobs }) => jobs)
      .find(({ view }) => view.id.startsWith(prefix))
    if (found === undefined) throw new MeshError('MESH0601', `no job ${prefix}`)
    return found
  }

  #accept(id: string, submission: Submission): RequestView {
    const before = this.requests.get(id)
    if (before !== undefined) return before.view
    this.submission = submission
    const { graph } = submission
    const jobs = graph.derivations.map((derivation, at): FakeJob => ({
      view: {
        id: `j-${id.slice(2)}${at}`,
        request: id,
        name: derivation.name,
        key: null,
        state: 'waiting',
        cached: false,
        attempts: [],
        rewinds: 0,
      },
      log: Buffer.alloc(0),
    }))
    const request: FakeRequest = {
      view: {
        id,
        name: graph.name,
        user: 'ann',
        state: 'running',
        accepted: 'owned',
        owner: NODE,
        detachable: true,
        submittedAt: now(),
        endedAt: null,
        counts: {
          total: jobs.length,
          built: 0,
          cached: 0,
          failed: 0,
          cancelled: 0,
          running: 0,
          waiting: jobs.length,
        },
        outputs: {},
        bytes: { peer: 1024, mirror: 0, local: 2048, root: 0 },
        wallMs: 0,
        serialMs: 0,
        ranLocally: 0,
        failures: [],
        exit: 0,
        replicas: null,
        notices: [],
      },
      jobs,
      outputs: new Map(),
      listeners: new Set(),
      ended: false,
    }
    this.requests.set(id, request)
    void this.#build(request, submission)
    return request.view
  }

  async #build(request: FakeRequest, { graph, keepGoing }: Submission): Promise<void> {
    const started = Date.now()
    if (this.hold !== undefined) {
      for (const job of request.jobs) job.view = { ...job.view, why: this.hold }
      tell(request)
      await new Promise<void>((done) => (this.#wake = done))
    }
    for (const [at, derivation] of graph.derivations.entries()) {
      const job = request.jobs[at]
      if (job === undefined || request.ended) break
      const isBlocked = dependenciesOf(derivation).some((name) => !request.outputs.has(name))
      if (isBlocked || (request.view.failures.length > 0 && !keepGoing)) {
        job.view = { ...job.view, state: 'cancelled' }
        continue
      }
      await this.#buildOne(request, job, derivation)
    }
    if (request.ended) return
    const { failures } = request.view
    request.view = {
      ...request.view,
      state: failures.length > 0 ? 'failed' : 'done',
      exit: failures.length > 0 ? 1 : 0,
      wallMs: Math.max(1, Date.now() - started),
      endedAt: now(),
      outputs: Object.fromEntries(
        [...request.outputs].filter(([name]) => graph.wanted.includes(name)),
      ),
    }
    request.ended = true
    tell(request)
  }

  async #buildOne(request: FakeRequest, job: FakeJob, derivation: Derivation): Promise<void> {
    const resolved = resolveDerivation(
      derivation,
      (name, output) => request.outputs.get(name)?.[output],
    )
    if (resolved === undefined) throw new Error(`${derivation.name} cannot be resolved`)
    const key = jobKey(resolved)
    const cached = this.#cache.get(key)
    if (cached !== undefined) {
      request.outputs.set(derivation.name, cached.outputs)
      job.log = cached.log
      job.view = { ...job.view, key, state: 'done', cached: true }
      tell(request)
      return
    }
    const root = mkdtempSync(join(this.directory, 'build-'))
    for (const name of ['in', 'out', 'work', 'home', 'tmp']) mkdirSync(join(root, name))
    const action = makeAction(resolved, resolved, EMPTY_DIGEST)
    const local = (path: string): string => path.replace(/^\/build\//, `${root}/`)
    for (const [path, entry] of action.inputs)
      await layOut((ref) => this.#read(ref.digest), entry, local(path))
    const attempt: AttemptView = {
      id: `a-${job.view.id.slice(2)}`,
      n: 1,
      node: NODE,
      host: NODE,
      arch: 'x86_64',
      platform: 'linux',
      environment: 'process debian-12',
      action: key,
      state: 'building',
      startedAt: now(),
      endedAt: null,
      phases: {},
      usage: null,
      error: null,
      exitCode: null,
    }
    job.view = { ...job.view, key, state: 'running', attempts: [attempt] }
    tell(request)
    const started = Date.now()
    const code = await this.#run(request, job, action, root, local)
    const outputs: Record<string, Entry> = {}
    let problem =
      code === 0
        ? undefined
        : { code: 'MESH0401', message: `exit ${code} after ${Date.now() - started} ms` }
    for (const [name, path] of problem === undefined ? action.outputs : []) {
      try {
        outputs[name] = await ingest(
          hashingSink(async (blob) => {
            const pieces: Uint8Array[] = []
            for await (const piece of blob.open()) pieces.push(piece)
            this.put(Buffer.concat(pieces))
          }),
          local(path),
        )
      } catch {
        problem = { code: 'MESH0403', message: `the builder did not make $${name}` }
      }
    }
    rmSync(root, { recursive: true, force: true })
    if (request.ended) return
    const serialMs = request.view.serialMs + Date.now() - started
    job.view = {
      ...job.view,
      state: problem === undefined ? 'done' : 'failed',
      attempts: [
        {
          ...attempt,
          state: problem === undefined ? 'done' : 'failed',
          endedAt: now(),
          error: problem?.message ?? null,
          exitCode: code,
        },
      ],
    }
    request.view = { ...request.view, serialMs, ranLocally: request.view.ranLocally + 1 }
    if (problem === undefined) {
      request.outputs.set(derivation.name, outputs)
      this.#cache.set(key, { outputs, log: job.log })
    } else {
      const failure = {
        job: job.view.id,
        name: derivation.name,
        node: NODE,
        logTail: textOf(job.log),
        ...problem,
      }
      request.view = { ...request.view, failures: [...request.view.failures, failure] }
    }
    tell(request)
  }

  #run(
    request: FakeRequest,
    job: FakeJob,
    action: ReturnType<typeof makeAction>,
    root: string,
    local: (path: string) => string,
  ): Promise<number> {
    const [program = '', ...args] = action.argv
    const started = Date.now()
    const env = Object.fromEntries(
      Object.entries(action.env).map(([name, value]) => [name, local(value)]),
    )
    const child = spawn(program, args, {
      cwd: join(root, 'work'),
      env,
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
    })
    request.listeners.add(() => {
      if (request.view.state === 'cancelled' && child.pid !== undefined && child.exitCode === null)
        try {
          process.kill(-child.pid, 'SIGKILL')
        } catch {
          // It has ended by itself.
        }
    })
    for (const stream of ['stdout', 'stderr'] as const)
      child[stream].on('data', (bytes: Buffer) => {
        for (let at = 0; at < bytes.byteLength; at += 65536)
          job.log = Buffer.concat([
            job.log,
            encodeLogRecord({
              stream,
              atMs: Date.now() - started,
              bytes: bytes.subarray(at, at + 65536),
            }),
          ])
        tell(request)
      })
    return new Promise((done) =>
      child.on('close', (code, signal) => done(code ?? 128 + (signal === 'SIGKILL' ? 9 : 15))),
    )
  }

  async *#read(digest: Digest): AsyncIterable<Uint8Array> {
    const bytes = this.blobs.get(digest)
    if (bytes === undefined) throw new MeshError('MESH0501', `no blob ${digest}`)
    yield bytes
  }

  #drain({ selector, reason, deadlineMs }: DrainOrder): DrainView {
    const drain: DrainView = {
      id: `d-${this.drains.length}`,
      selector,
      reason,
      by: 'ann',
      at: now(),
      deadline: deadlineMs === null ? null : new Date(Date.now() + deadlineMs).toISOString(),
      nodes: this.nodes
        .filter(({ name }) => matchesGlob(selector, name))
        .map(({ name, peerId, allocated }) => ({
          name,
          peerId,
          state: allocated.cpus > 0 ? 'draining' : 'drained',
          running: Array.from({ length: allocated.cpus }, (_, at) => ({
            job: `j-${at}`,
            name: `job${at}`,
            forMs: 62_000,
          })),
          runningCount: allocated.cpus,
        })),
    }
    this.drains.push(drain)
    return drain
  }

  #undrain(selector: string): Undrained {
    const ended = this.drains.filter((drain) => drain.selector === selector)
    this.drains = this.drains.filter((drain) => drain.selector !== selector)
    return { drains: ended, nodes: ended.flatMap(({ nodes }) => nodes.map(({ name }) => name)) }
  }

  #cancel(request: FakeRequest): RequestView {
    if (!request.ended) {
      request.ended = true
      for (const job of request.jobs)
        if (job.view.state !== 'done') job.view = { ...job.view, state: 'cancelled' }
      request.view = { ...request.view, state: 'cancelled', exit: 8, endedAt: now(), wallMs: 1 }
      tell(request)
      this.#wake?.()
    }
    return request.view
  }

  /** Level-triggered, like the real one: what differs from what was sent last is sent. */
  #events(request: FakeRequest, response: ServerResponse): void {
    response.writeHead(200, { 'content-type': 'application/x-ndjson' })
    const sent = new Map<string, string>()
    const send = (event: Event): void => void response.write(`${JSON.stringify(event)}\n`)
    const update = (): void => {
      request.view = { ...request.view, counts: countsOf(request.jobs) }
      const view = JSON.stringify(request.view)
      if (sent.get('request') !== view) send({ type: 'request', at: now(), request: request.view })
      sent.set('request', view)
      if (this.breakEvents && !this.#broken.has(request.view.id)) {
        this.#broken.add(request.view.id)
        setTimeout(() => response.destroy(), 10)
        return
      }
      for (const job of request.jobs) {
        const text = JSON.stringify(job.view)
        if (sent.get(job.view.id) !== text) send({ type: 'job', at: now(), job: job.view })
        sent.set(job.view.id, text)
      }
      if (!request.ended) return
      send({ type: 'end', at: now(), request: request.view })
      request.listeners.delete(update)
      response.end()
    }
    response.write('{"type":"of a newer version","at":"","x":1}\n')
    request.listeners.add(update)
    response.on('close', () => request.listeners.delete(update))
    update()
  }

  #log(id: string, offset: number, follow: boolean, response: ServerResponse): void {
    const job = this.#job(id)
    const request = this.#request(job.view.request)
    let at = offset
    response.writeHead(200, { 'content-type': 'application/octet-stream' })
    const update = (): void => {
      if (job.log.byteLength > at) response.write(job.log.subarray(at))
      at = job.log.byteLength
      if (follow && (job.view.state === 'running' || job.view.state === 'waiting')) return
      request.listeners.delete(update)
      response.end()
    }
    request.listeners.add(update)
    response.on('close', () => request.listeners.delete(update))
    update()
  }

  #status(): Status {
    return {
      v: 1,
      name: NODE,
      peerId: PEER_ID,
      roles: ['root', 'worker', 'store'],
      version: '0.1.0',
      root: { name: NODE, peerId: PEER_ID, connected: true },
      parents: [],
      nodes: { ready: 2, lost: 1, draining: 0, full: 0, sleeping: 0, waking: 0, broken: 0 },
      cpus: { total: 24, busy: 13 },
      jobs: { waiting: 41, running: 12 },
      requests: { active: 2, local: 0 },
      store: { blobs: 1234, bytes: 5 * 1024 ** 3, freeBytes: 400 * 1024 ** 3 },
      draining: false,
      problems: ['arm-2 was lost 4m ago'],
    }
  }
}

/** What a list was asked for; states are alternatives, names patterns. */
function filterOf(query: URLSearchParams): {
  isWanted: (name: string, value: string) => boolean
  limit: number | undefined
} {
  const limit = query.get('limit')
  return {
    isWanted: (name, value) => {
      const asked = query.get(name)
      return asked === null || asked.split(',').some((pattern) => matchesGlob(pattern, value))
    },
    limit: limit === null ? undefined : Number(limit),
  }
}

/** The view after a lever. */
function pulled<T extends JobView | RequestView>(view: T, lever: string, body: Buffer): T {
  const order: unknown = JSON.parse(String(body))
  switch (lever) {
    case 'boost':
      return { ...view, priority: BoostOrder.parse(order).priority }
    case 'hold':
      return { ...view, held: { by: 'ann', reason: HoldOrder.parse(order).reason, at: now() } }
    case 'release':
      return { ...view, held: undefined }
    case 'retry':
      return { ...view, state: 'waiting', why: rebound(RetryOrder.parse(order).rebind) }
    default:
      return { ...view, state: 'cancelled' }
  }
}

const rebound = (isRebound: boolean): JobView['why'] =>
  isRebound ? { class: 'rebind', text: 'it starts over' } : undefined

const now = (): string => new Date(Date.now()).toISOString()

function tell(request: FakeRequest): void {
  for (const listener of request.listeners) listener()
}

function countsOf(jobs: readonly FakeJob[]): RequestView['counts'] {
  const count = (test: (view: JobView) => boolean): number =>
    jobs.filter(({ view }) => test(view)).length
  return {
    total: jobs.length,
    built: count(({ state, cached }) => state === 'done' && !cached),
    cached: count(({ cached }) => cached),
    failed: count(({ state }) => state === 'failed'),
    cancelled: count(({ state }) => state === 'cancelled'),
    running: count(({ state }) => state === 'running'),
    waiting: count(({ state }) => state === 'waiting'),
  }
}

function dryRunOf({ graph }: Submission): DryRun {
  return {
    derivations: graph.derivations.map((derivation) => ({
      name: derivation.name,
      state: dependenciesOf(derivation).length > 0 ? 'unknown' : 'build',
      nodes: [NODE],
      inputBytes: 1024,
      run: derivation.run,
    })),
    criticalPath: graph.derivations.map(({ name }) => name),
  }
}

function textOf(log: Buffer): string {
  let text = ''
  for (let at = 0; at < log.byteLength;) {
    const length = log.readUInt32BE(at + 5)
    text += log.toString('utf8', at + 9, at + 9 + length)
    at += 9 + length
  }
  return text.slice(-8192)
}

async function bodyOf(request: IncomingMessage): Promise<Buffer> {
  const pieces: Uint8Array[] = []
  for await (const piece of request) if (piece instanceof Uint8Array) pieces.push(piece)
  return Buffer.concat(pieces)
}
