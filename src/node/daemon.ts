/**
 * The daemon: makes all parts of a node and wires them together.
 *
 * A node without parents is the owner of requests; one with parents hands them up and works for the
 * owner. Everything else (store, worker, doors) is the same for both.
 */
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Logger } from 'pino'
import { deadline, type Clock, type Timer } from '../base/clock.ts'
import { MeshError, messageOf } from '../base/errors.ts'
import { randomId, type Random } from '../base/random.ts'
import { openExecutor, type Executor } from '../build/executor.ts'
import { cpusOf, memoryBytesOf, openHostEnvironment } from '../build/host-environment.ts'
import { openMaterialised } from '../build/materialised.ts'
import { Worker } from '../build/worker.ts'
import { totals } from '../scheduler/views.ts'
import { openActionCache } from '../store/action-cache.ts'
import { openFsBlobStore } from '../store/fs-blob-store.ts'
import { casRoutes } from '../store/http-routes.ts'
import type { Status } from '../wire/api.ts'
import { encodeObject, parseWith } from '../wire/cbor.ts'
import { CAS_FRAME_BYTES_MAX, LOG_FRAME_BYTES_MAX, WORK_FRAME_BYTES_MAX } from '../wire/frame-channel.ts'
import type { NodeFile } from '../wire/node-file.ts'
import {
  ApiAnswer,
  CAS_PROTOCOL,
  Done,
  HEARTBEAT_MS,
  Located,
  LOG_PROTOCOL,
  Owner as OwnerAnswer,
  WORK_PROTOCOL,
  WORK_VERSION,
  type Call,
  type HelloMessage,
  type PeerRecord,
} from '../wire/work-messages.ts'
import { Blobs, type Locate } from './blobs.ts'
import { Children } from './children.ts'
import type { Config } from './config.ts'
import { RemoteAuthority, requestFrom, unreachable, type Authority } from './entry.ts'
import { openApi, openPublic } from './http-server.ts'
import { openIdentity } from './identity.ts'
import { openJournal } from './journal.ts'
import { openHost, type Host } from './libp2p-host.ts'
import { Locator, RELAY_MS } from './locator.ts'
import { Logs } from './logs.ts'
import { openMetrics } from './metrics.ts'
import { openNodeDirectory } from './node-directory.ts'
import { openOutbox } from './outbox.ts'
import { OwnerApi } from './owner-api.ts'
import { Owner } from './owner.ts'
import { createParents } from './parents.ts'
import { openPeerLink, type LinkHandlers } from './peer-link.ts'
import { packageVersion } from './version.ts'
import {
  attachSelf,
  closeServer,
  describeWorker,
  encodeAnswers,
  encodeEvents,
  freeBytes,
  isParent,
  localAuthorityOf,
  locateLog,
  moveBlobs,
  nextHop,
  refreshDisk,
  splitAddress,
  Totals,
  urlOf,
} from './wiring.ts'
import { Offer, WorkerSession } from './worker-session.ts'

const PROTOCOLS = [WORK_PROTOCOL, CAS_PROTOCOL, LOG_PROTOCOL]
const CONNECTIONS_MAX = 4_000
/** How long outcomes may take to reach their owner when the node stops in order. */
const HAND_IN_MS = 3_000
const NO_NODES: Status['nodes'] = { ready: 0, draining: 0, lost: 0, sleeping: 0, waking: 0, broken: 0 }

export interface DaemonDeps {
  readonly clock: Clock
  readonly random: Random
  readonly log: Logger
}

export interface Daemon {
  /** What node.json says. */
  readonly ready: NodeFile
  /** How builds run here, for people. */
  readonly summary: readonly string[]
  /** Finishes what runs and takes nothing new. */
  drain(): Promise<void>
  /** Ends everything. Idempotent. */
  stop(): Promise<void>
  /** Rejects never; resolves with what made the daemon unable to go on. */
  readonly failed: Promise<Error>
}

/** Starts a node; resolves when it is ready. Throws the errors of configuration, store and listeners. */
export async function startDaemon(deps: DaemonDeps, config: Config): Promise<Daemon> {
  const stack = new AsyncDisposableStack()
  try {
    return await assemble(deps, config, stack)
  } catch (error) {
    await stack.disposeAsync()
    throw error
  }
}

async function assemble(deps: DaemonDeps, config: Config, stack: AsyncDisposableStack): Promise<Daemon> {
  const { clock, random, log } = deps
  const version = packageVersion()
  const isWorker = config.roles.includes('worker')
  const directory = await openNodeDirectory({ path: config.data, temporary: tmpdir() })
  stack.use(directory)
  const identity = await openIdentity({ random }, { directory: config.data })
  const at = (name: string): string => join(config.data, name)

  // The executor starts first: a process is made cheaply while this one is small.
  const executorStarting = isWorker
    ? openExecutor({ clock, log: log.child({ component: 'executor' }) }, { directory: config.data, ...(config.isolation === 'process' ? { forbid: ['helper', 'bwrap', 'unshare'] as const } : {}) })
    : undefined
  executorStarting?.catch(() => undefined)
  const hostStarting = openHost(
    { log: log.child({ component: 'libp2p' }), clock },
    {
      privateKeySeed: identity.seed,
      listen: config.listen,
      admits: (peerId) => typeof config.allow === 'string' || config.allow.includes(peerId) || isParent(config, peerId),
      connectionsMax: CONNECTIONS_MAX,
    },
  )
  hostStarting.catch(() => undefined)

  let host: Host | undefined
  try {
    const store = await openFsBlobStore({ clock, log: log.child({ component: 'store' }) }, { directory: at('store') })
    stack.use(store)
    const actions = await openActionCache({ log }, { directory: at('actions') })
    stack.use(actions)

    const selfRecord = (): PeerRecord => ({
      peerId: identity.peerId,
      name: config.name,
      roles: [...config.roles],
      addresses: (host?.listenAddresses() ?? []).map((address) => address.replace(/\/p2p\/[^/]+$/, '')),
      http: httpUrl,
    })
    let httpUrl: string | null = null
    const boot = randomId(random, 'b', 16)

    // ---- blobs, and who knows where they are
    const locate: Locate = async (query, signal) => {
      const refs = [...query.refs]
      const entries = [...query.entries]
      const failed = [...query.failed]
      if (locator !== undefined) return locator.locate({ refs, entries, failed }, identity.peerId, signal)
      const link = parents?.link()
      if (link === undefined) return { peers: [], providers: [] }
      return link.call({ method: 'locate', refs, entries, failed }, Located, { signal })
    }
    const blobs = new Blobs(
      { clock, random, log: log.child({ component: 'blobs' }), store, host: () => host, locate },
      { selfId: identity.peerId, isStore: config.roles.includes('store'), mirrors: config.mirrors },
    )
    stack.use(blobs)

    // ---- the worker
    const executor: Executor | undefined = await executorStarting
    if (executor !== undefined) stack.use(executor)
    const session: { current: WorkerSession | undefined } = { current: undefined }
    let worker: Worker | undefined
    let offer: Offer | undefined
    const summary: string[] = []
    if (executor !== undefined) {
      const hostEnvironment = await openHostEnvironment({ directory: config.data, sandbox: executor.sandbox })
      offer = new Offer(hostEnvironment, hostEnvironment.environments, {
        cpus: config.cpus ?? (await cpusOf()),
        memoryBytes: config.memoryBytes ?? (await memoryBytesOf()),
        diskBytes: await freeBytes(config.data),
      })
      const trees = await openMaterialised({ store, log }, { directory: at('trees') })
      stack.use(trees)
      worker = new Worker(
        {
          clock,
          log: log.child({ component: 'worker' }),
          store,
          trees,
          executor,
          obtain: (entry, options) => blobs.obtain(entry, options),
          signer: identity.signer,
          onChange: () => session.current?.changed(),
        },
        { name: config.name, directory: at('build'), mirrors: config.mirrors },
      )
      await worker.start()
      summary.push(...describeWorker(executor, offer))
      for (const line of executor.sandbox.reasons) log.info({ reason: line }, 'a stronger sandbox was not taken')
      if (executor.sandbox.method === 'none') log.warn('builds run without walls: this node serves only unsealed derivations')
    }

    // ---- who answers for requests
    const user = `${config.name}/local`
    let owner: Owner | undefined
    let locator: Locator | undefined
    let children: Children | undefined
    let ownerApi: OwnerApi | undefined
    const detaching = new Set<string>()
    const lifetime = new AbortController()
    stack.defer(() => lifetime.abort(new MeshError('MESH0108', 'the node is stopping')))

    const callDown = async (peerId: string, call: Extract<Call, { method: 'pull' | 'push' }>, signal: AbortSignal): Promise<Done> => {
      const limit = deadline(clock, RELAY_MS, () => new MeshError('MESH0505', 'moving blobs took too long'), signal)
      try {
        if (peerId === identity.peerId) return await moveBlobs(blobs, call, limit.signal)
        return (await children?.call(peerId, call, limit.signal)) ?? { ok: false, bytes: 0, message: 'not connected' }
      } finally {
        limit.cancel()
      }
    }

    if (config.parents.length === 0) {
      const journal = await openJournal({ directory: at('journal') })
      stack.use(journal)
      owner = new Owner({
        clock,
        log: log.child({ component: 'owner' }),
        journal,
        actions,
        signer: identity.signer,
        ownBlobBytes: () => blobs.movedBytes,
        onResult: (result, peerId) => locator?.addResult(result, peerId),
      })
      locator = new Locator({ clock, log: log.child({ component: 'locator' }), scheduler: owner.scheduler, self: selfRecord, callDown })
      await owner.start()
      const stopping = owner
      stack.defer(() => stopping.stop())
      for (const request of owner.scheduler.state.requests.values()) locator.addSources(request)
      children = new Children({ owner, locator, log: log.child({ component: 'children' }), clock })
      ownerApi = new OwnerApi({ owner, actions, self: selfRecord })
    }

    /** Gets the sources of every active request to a store node, one try per request at a time. */
    const makeDetachable = (): void => {
      if (owner === undefined || locator === undefined) return
      for (const request of owner.scheduler.state.requests.values()) {
        const { id } = request.wire
        if (request.state !== 'active' || request.detachable || detaching.has(id)) continue
        detaching.add(id)
        const applying = owner
        void locator
          .makeDetachable(request, lifetime.signal)
          .then(
            (isDone) => {
              if (isDone) applying.apply({ type: 'detachable', request: id })
            },
            (error: unknown) => log.debug({ err: error, request: id }, 'request could not be made detachable'),
          )
          .finally(() => detaching.delete(id))
      }
    }

    const localAuthority: Authority | undefined =
      owner === undefined || ownerApi === undefined || locator === undefined
        ? undefined
        : localAuthorityOf({ owner, ownerApi, locator, clock, ownerName: config.name, onSubmitted: makeDetachable })

    // ---- calls of other nodes
    const forwardUp = (call: Call, signal: AbortSignal): Promise<Uint8Array<ArrayBuffer>> | AsyncIterable<Uint8Array<ArrayBuffer>> => {
      const link = parents?.link()
      if (link === undefined) throw unreachable(parents?.status() ?? [])
      switch (call.method) {
        case 'submit':
          return link.call(call, OwnerAnswer, { signal }).then((answer) => encodeObject(OwnerAnswer, answer))
        case 'api':
          return link.call({ ...call, hops: nextHop(call.hops) }, ApiAnswer, { signal }).then((answer) => encodeObject(ApiAnswer, answer))
        case 'locate':
          return link.call(call, Located, { signal }).then((answer) => encodeObject(Located, answer))
        case 'events':
          return encodeAnswers(link.stream({ ...call, hops: nextHop(call.hops) }, ApiAnswer, { signal }))
        case 'pull':
        case 'push':
          throw new MeshError('MESH0603', 'blobs are moved at the word of a parent only')
      }
    }
    const onChildCall: LinkHandlers['onCall'] = (call, { signal, peerId }) => {
      if (localAuthority === undefined || ownerApi === undefined || locator === undefined) return forwardUp(call, signal)
      switch (call.method) {
        case 'submit':
          return localAuthority.submit(call.request).then(() => encodeObject(OwnerAnswer, { name: config.name, peerId: identity.peerId }))
        case 'api':
          return ownerApi.answer(call).then((answer) => encodeObject(ApiAnswer, answer))
        case 'locate':
          return locator.locate(call, peerId, signal).then((answer) => encodeObject(Located, answer))
        case 'events':
          return encodeEvents(localAuthority.events(call.request, signal))
        case 'pull':
        case 'push':
          throw new MeshError('MESH0603', 'blobs are moved at the word of a parent only')
      }
    }
    const onParentCall: LinkHandlers['onCall'] = async (call, { signal }) => {
      if (call.method !== 'pull' && call.method !== 'push') throw new MeshError('MESH0603', `a parent does not ask for ${call.method}`)
      return encodeObject(Done, await moveBlobs(blobs, call, signal))
    }
    const makeHello = (): HelloMessage => ({
      type: 'hello',
      versions: WORK_VERSION,
      features: [],
      mesh: version,
      protocols: PROTOCOLS,
      record: selfRecord(),
      boot,
      epoch: owner?.scheduler.state.epoch ?? 0,
    })

    // ---- the network
    host = await hostStarting
    const opened = host
    stack.use(opened)
    const logs = new Logs({
      clock,
      log: log.child({ component: 'logs' }),
      store,
      blobs,
      host: () => host,
      worker,
      selfId: identity.peerId,
      locate: (job, attempt) => locateLog(authority, job, attempt, user),
      parentId: () => parents?.link()?.peerId,
    })
    await opened.handle(CAS_PROTOCOL, { frameBytesMax: CAS_FRAME_BYTES_MAX, streamsMax: 64 }, (channel) => blobs.accept(channel))
    await opened.handle(LOG_PROTOCOL, { frameBytesMax: LOG_FRAME_BYTES_MAX, streamsMax: 64 }, (channel) => void logs.serve(channel, lifetime.signal))

    let hasWarned = false
    const idleHandlers: LinkHandlers = {
      onCall: onChildCall,
      onSync: (message) => {
        if (hasWarned || message.environments.length === 0) return
        hasWarned = true
        log.warn('a worker is attached to this node, which has a parent of its own: attach it to the root, it gets no work here')
      },
    }
    const openParents = (): ReturnType<typeof createParents> =>
      createParents(
        {
          clock,
          random,
          log: log.child({ component: 'parents' }),
          connect: async (address, { signal }) => {
            const { peerId, transport } = splitAddress(address)
            const channel = await opened.open(
              { ...(peerId === undefined ? {} : { peerId }), addresses: [transport] },
              WORK_PROTOCOL,
              { frameBytesMax: WORK_FRAME_BYTES_MAX, signal },
            )
            return openPeerLink(
              { channel, clock, log },
              {
                hello: makeHello(),
                signal,
                handlers: () => ({ onCall: onParentCall, onDesired: (message) => session.current?.take(message) }),
              },
            )
          },
        },
        {
          addresses: config.parents,
          onLink: (link) => {
            log.info({ peer: link.peerId, node: link.remote.record.name }, 'parent connected')
            const mine = new WorkerSession(worker, offer, (make) => link.requestSync(make))
            session.current = mine
            mine.changed()
            void link.closed.then((reason) => {
              log.warn({ peer: link.peerId, reason }, 'parent was lost')
              if (session.current === mine) session.current = undefined
            })
            remote?.forward().catch((error: unknown) => log.info({ reason: messageOf(error) }, 'requests could not be handed over yet'))
          },
        },
      )

    let parents: ReturnType<typeof createParents> | undefined
    let remote: RemoteAuthority | undefined
    let authority: Authority
    if (localAuthority === undefined) {
      const outbox = await openOutbox({ directory: at('outbox') })
      stack.use(outbox)
      parents = openParents()
      stack.use(parents)
      const current = parents
      remote = new RemoteAuthority({ clock, log, outbox, link: () => current.link(), parents: () => current.status() })
      authority = remote
    } else {
      authority = localAuthority
    }
    stack.defer(() => children?.close())

    // ---- doors
    const cas = casRoutes({ store: blobs.served, actions, log: log.child({ component: 'http' }) })
    const failing = (): string[] => [
      ...(owner?.problem === undefined ? [] : [owner.problem]),
      ...(parents !== undefined && parents.link() === undefined ? ['the root is not reached'] : []),
    ]
    const metrics = openMetrics({
      version,
      nodes: () => (owner === undefined ? {} : totals(owner.scheduler).nodes),
      jobs: () => (owner === undefined ? {} : totals(owner.scheduler).jobs),
      store: () => store.stats(),
      transferred: () => ({ sent: blobs.served.bytes, ...blobs.fetcher.totals }),
    })
    const server = await openPublic({ cas, metrics: () => metrics.metrics(), failing, log: log.child({ component: 'http' }) }, config.http)
    stack.defer(() => closeServer(server))
    httpUrl = urlOf(server, config.http.host)

    const status = async (): Promise<Status> => {
      const answer = await authority.answer({ verb: 'GET', path: '/api/totals', body: '', user })
      const known = answer.status === 200 ? parseWith(Totals, JSON.parse(answer.body), 'totals') : undefined
      return {
        v: 1,
        name: config.name,
        peerId: identity.peerId,
        roles: [...config.roles],
        version,
        root: {
          name: known?.root.name ?? null,
          peerId: known?.root.peerId ?? null,
          connected: known !== undefined,
        },
        parents: (parents?.status() ?? []).map(({ address, connected, error }) => ({ address, connected, error })),
        nodes: known?.nodes ?? NO_NODES,
        cpus: known?.cpus ?? { total: 0, busy: 0 },
        jobs: known?.jobs ?? { waiting: 0, running: 0 },
        requests: { active: known?.activeRequests ?? 0, local: authority.waiting.size },
        store: { blobs: store.stats().count, bytes: store.stats().bytes, freeBytes: await freeBytes(config.data) },
        draining: offer?.isDraining ?? false,
        problems: failing(),
      }
    }
    const api = await openApi(
      {
        store,
        log: log.child({ component: 'api' }),
        cas: casRoutes({ store, actions, log }),
        answer: async (call) => {
          if (call.verb === 'GET' && call.path === '/api/status') return { status: 200, body: JSON.stringify(await status()) }
          return authority.answer({ ...call, user })
        },
        async submit(id, body) {
          const request = requestFrom(id, body, { entry: selfRecord(), user, wallMs: clock.wallMs() })
          await authority.submit(request)
          return authority.answer({ verb: 'GET', path: `/api/requests/${id}`, body: '', user })
        },
        events: (id, signal) => authority.events(id, AbortSignal.any([signal, lifetime.signal])),
        readLog: (job, options) => logs.read(job, options),
        obtain: (digest, size, signal) => blobs.obtainBlob(digest, size, signal),
      },
      { socket: directory.socketPath },
    )
    stack.defer(() => api.close())

    // ---- the node's own worker, or at the root the node itself
    if (owner !== undefined && children !== undefined) {
      const own = attachSelf({ owner, children, worker, offer, record: selfRecord(), version: { mesh: version, protocols: PROTOCOLS }, boot })
      session.current = own
      own.changed()
    }
    await opened.handle(WORK_PROTOCOL, { frameBytesMax: WORK_FRAME_BYTES_MAX, streamsMax: 4 }, (channel) => {
      openPeerLink(
        { channel, clock, log: log.child({ component: 'link' }) },
        {
          hello: makeHello(),
          signal: lifetime.signal,
          handlers: (link) => children?.attach(link, onChildCall) ?? idleHandlers,
        },
      ).catch((error: unknown) => {
        log.info({ err: error, peer: channel.remotePeer }, 'peer was not taken in')
      })
    })
    parents?.start()

    let timer: Timer | undefined
    const beat = (): void => {
      timer = clock.setTimer(HEARTBEAT_MS, () => {
        session.current?.changed()
        children?.heartbeat()
        makeDetachable()
        if (offer !== undefined) void refreshDisk(offer, config.data, log)
        beat()
      })
    }
    beat()
    stack.defer(() => timer?.cancel())
    makeDetachable()

    const ready: NodeFile = {
      v: 1,
      name: config.name,
      peerId: identity.peerId,
      listen: opened.listenAddresses(),
      http: httpUrl,
      socket: directory.socketPath,
      pid: process.pid,
      protocols: PROTOCOLS,
    }
    await directory.publish(ready)
    log.info({ node: config.name, peer: identity.peerId, listen: ready.listen, http: ready.http, roles: config.roles }, 'node is ready')

    const drain = async (): Promise<void> => {
      if (offer === undefined || worker === undefined) return
      offer.isDraining = true
      session.current?.changed()
      await worker.idle()
      const limit = deadline(clock, HAND_IN_MS, () => new Error('outcomes were not taken in time'))
      while (worker.finished.length > 0 && session.current !== undefined && !limit.signal.aborted)
        await new Promise<void>((resolve) => clock.setTimer(20, resolve))
      limit.cancel()
    }
    let stopped: Promise<void> | undefined
    const running = worker
    return {
      ready,
      summary,
      drain,
      stop() {
        stopped ??= (async () => {
          await running?.stop()
          await stack.disposeAsync()
        })()
        return stopped
      },
      failed: new Promise(() => undefined),
    }
  } catch (error) {
    // What was still starting must not outlive the failure.
    if (host === undefined) {
      const late = await hostStarting.catch(() => undefined)
      await late?.[Symbol.asyncDispose]()
    }
    const lateExecutor = await executorStarting?.catch(() => undefined)
    await lateExecutor?.[Symbol.asyncDispose]()
    throw error
  }
}
