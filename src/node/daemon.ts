/**
 * The daemon: opens the parts of a node and wires them together.
 *
 * A node without parents owns its requests; one with parents hands them up and works for their owner.
 * That difference is in `Authority`; all else is the same for both.
 */
import { rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Logger } from 'pino'
import { deadline, sleep, type Clock, type Timer } from '../base/clock.ts'
import { messageOf, MeshError } from '../base/errors.ts'
import { randomId, type Random } from '../base/random.ts'
import { openExecutor, type Executor } from '../build/executor.ts'
import { openFileWorkers } from '../files/workers/file-workers.ts'
import { openChunkIndex } from '../store/chunks/chunk-index.ts'
import { openPartialBlobs } from '../store/partial/part-directory.ts'
import { openActionCache } from '../store/action-cache.ts'
import { openFsBlobStore } from '../store/fs-blob-store.ts'
import { casRoutes } from '../store/http-routes.ts'
import { NODE_FILE, type NodeFile } from '../wire/node-file.ts'
import type { PeerRecord } from '../wire/peer-record.ts'
import { HEARTBEAT_MS } from '../wire/work-messages.ts'
import type { Authority } from './authority.ts'
import { Blobs } from './blobs/blobs.ts'
import { followStore } from './blobs/follow-store.ts'
import type { Config } from './config/config.ts'
import { isLoopback } from './config/config-values.ts'
import { openDataPlane } from './data-plane/data-plane.ts'
import { openApi } from './doors/http-server.ts'
import { openPublic, urlOf } from './doors/public-server.ts'
import { openIdentity } from './process/identity.ts'
import { openHost } from './links/libp2p-host.ts'
import { admits, Links, PROTOCOLS } from './links/links.ts'
import { openLocalAuthority } from './owner/local-authority.ts'
import type { Worker } from '../build/worker.ts'
import { Logs } from './doors/logs.ts'
import { LogCopies } from './logs/log-copies.ts'
import { openMetrics } from './doors/metrics.ts'
import { mirrorViews, openMirrorRole } from './mirror/mirrors.ts'
import { testMirrors } from './mirror/test-mirror.ts'
import { DeclaredImages } from './images/declared-images.ts'
import { openNodeDirectory } from './process/node-directory.ts'
import { machineOptions } from './machine.ts'
import { describeWorker, freeBytes, openNodeWorker } from './node-worker.ts'
import { describePolicy } from './policy/open-policy.ts'
import { openTreeAuthority } from './tree/tree-authority.ts'
import { askOwner } from './doors/ask-owner.ts'
import { openShell } from './doors/shell.ts'
import { statusOf } from './doors/status.ts'
import { requestFrom } from './doors/submission.ts'
import { packageVersion } from './process/version.ts'
import type { Offer } from './offer.ts'
import { roomOf, Sessions } from './worker-session.ts'

const CONNECTIONS_MAX = 4_000
/** A mirror may be filled within minutes, and then has to let go of what it got minutes ago. */
const MIRROR_RECENT_MS = 60_000
/** How long outcomes may take to reach their owner when the node stops in order. */
const HAND_IN_MS = 3_000
const HAND_IN_STEP_MS = 20

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
  /** The configuration was read again: what can change while it runs is changed, and its machine looked at. */
  reload(config: Config): Promise<void>
  /** Finishes what runs and takes nothing new. */
  drain(): Promise<void>
  /** Attempts that have not ended here. */
  running(): number
  /** Gives up what still runs and tells its owner, who has it run elsewhere at once. */
  handBack(): Promise<void>
  /** Ends everything. Idempotent. */
  stop(): Promise<void>
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

async function assemble(
  deps: DaemonDeps,
  config: Config,
  stack: AsyncDisposableStack,
): Promise<Daemon> {
  const { clock, random, log } = deps
  const at = (name: string): string => join(config.data, name)
  const version = packageVersion()
  const user = `${config.name}/local`
  const directory = stack.use(await openNodeDirectory({ path: config.data, temporary: tmpdir() }))
  const { seed, signer, peerId } = await openIdentity({ random }, { directory: config.data })
  const plane = await openDataPlane(
    {
      clock,
      random,
      log: log.child({ component: 'data-plane' }),
      signer,
      ask: (self, signal) => authority.token(self, signal),
    },
    { dataDirectory: config.data, isOpen: config.httpOpen },
  )
  const lifetime = new AbortController()
  const workers = stack.use(openFileWorkers({ log: log.child({ component: 'files' }) }))

  const [executor, host, store, actions] = await openTogether(stack, [
    // The executor goes first: a process is made cheaply while this one is small.
    openOwnExecutor(deps, config),
    openHost(
      { log: log.child({ component: 'libp2p' }), clock },
      {
        privateKeySeed: seed,
        listen: config.listen,
        admits: (peer) => admits(config, peer),
        connectionsMax: CONNECTIONS_MAX,
      },
    ),
    openFsBlobStore(
      { clock, log: log.child({ component: 'store' }), workers },
      {
        directory: at('store'),
        quotaBytes: config.quotaBytes,
        floorBytes: config.floorBytes,
        recentMs: config.roles.includes('mirror') ? MIRROR_RECENT_MS : undefined,
      },
    ),
    openActionCache({ log }, { directory: at('actions') }),
  ])
  stack.defer(() => lifetime.abort(new MeshError('MESH0108', 'the node is stopping')))

  const chunks = stack.use(
    await openChunkIndex({ store, workers, log }, { directory: at('store/chunks') }),
  )
  const partials = stack.use(
    await openPartialBlobs(
      { store, chunks, workers, clock, log, adopt: (path, ref) => store.adopt(path, ref) },
      { directory: at('store/part') },
    ),
  )
  const blobs = stack.use(
    new Blobs(
      {
        clock,
        random,
        log: log.child({ component: 'blobs' }),
        store,
        host,
        locate: (query, signal) => authority.finding.locate(query, signal),
        peers: plane,
        parts: { partials, chunks },
        onRoot: ({ digest, size }) => authority.finding.announcer.add(digest, size, 'root'),
      },
      { selfId: peerId, isStore: config.roles.includes('store'), mirrors: config.mirrors },
    ),
  )
  const mirror = config.roles.includes('mirror')
    ? stack.use(
        openMirrorRole(
          {
            clock,
            log: log.child({ component: 'mirror' }),
            store,
            reserve: (sizeBytes) => store.reserve(sizeBytes),
            blobs,
            locate: (refs, signal) =>
              authority.finding.locate({ refs, entries: [], failed: [] }, signal),
          },
          { directory: at('mirror') },
        ),
      )
    : undefined
  const copies = stack.use(
    new LogCopies({
      clock,
      log: log.child({ component: 'logs' }),
      stores: (signal) => authority.finding.stores(signal),
      push: (entries, to, signal) => blobs.push(entries, to, signal),
    }),
  )
  const sessions =
    executor === undefined
      ? new Sessions(undefined, undefined)
      : await openNodeWorker(
          {
            clock,
            log,
            store,
            blobs,
            workers,
            executor,
            signer,
            onRecord({ log: ref, kept }) {
              copies.add(ref)
              if (kept !== null) authority.finding.announcer.add(kept.digest, kept.size, 'root')
            },
          },
          config,
          stack,
        )
  const { worker, offer } = sessions
  sessions.room = roomOf(store.space(), config.data)
  stack.use(
    store.onSpace(async (space) => {
      sessions.room = roomOf(space, config.data)
      if (space.state === 'full') await partials.trim(0)
    }),
  )

  const metrics = openMetrics({
    version,
    totals: () => local.totals(),
    store: () => store.stats(),
    transferred: () => ({ sent: blobs.served.bytes, ...blobs.fetcher.totals }),
    mirror: () => mirror?.stats(),
    lookups: () => authority.finding.counts,
    relayedBytes: () => local.relayedBytes,
  })
  const http =
    config.http === undefined
      ? undefined
      : stack.use(
          await openPublic(
            {
              clock,
              log: log.child({ component: 'http' }),
              gate: plane.gate,
              cas: casRoutes({
                store: mirror ?? blobs.served,
                chunks,
                actions,
                log: log.child({ component: 'http' }),
              }),
              metrics: () => metrics.metrics(),
              failing: () => authority.problems(),
            },
            { listen: config.http, tls: plane.tls },
          ),
        ).address

  const record = (): PeerRecord =>
    plane.sign({
      name: config.name,
      roles: [...config.roles],
      addresses: host.listenAddresses().map((address) => address.replace(/\/p2p\/[^/]+$/, '')),
      // Other machines are answered over TLS alone.
      http: http === undefined ? null : urlOf(isLoopback(http.host) ? 'http' : 'https', http),
    })
  const boot = randomId(random, 'b', 16)
  const links = new Links(
    { clock, log, host },
    { mesh: version, boot, record, epoch: () => local.epoch },
  )
  const local = await openLocalAuthority(
    {
      clock,
      random,
      log,
      actions,
      blobs,
      store,
      signer,
      sessions,
      self: record,
      hasParents: config.parents.length > 0,
      takesChildren: config.listen.length > 0,
      auditShare: config.auditShare,
      shares: config.shares,
    },
    { directory: at('journal'), hello: { mesh: version, protocols: PROTOCOLS, boot } },
  )
  const authority: Authority = stack.use(
    config.parents.length === 0
      ? local
      : await openTreeAuthority(
          {
            clock,
            random,
            log,
            blobs,
            store,
            local,
            self: record,
            connect: (address, handlers, signal) => links.dial(address, handlers, signal),
            onParent: () => plane.tokens.renew(),
          },
          { directory: at('outbox'), addresses: config.parents },
        ),
  )

  const logs = new Logs({
    clock,
    log: log.child({ component: 'logs' }),
    store,
    blobs,
    host,
    worker,
    selfId: peerId,
    authority,
    user,
  })
  await links.acceptBulk(
    (channel) => blobs.accept(channel),
    (channel) => void logs.serve(channel, lifetime.signal),
  )
  const api = await openApi(
    {
      store,
      log: log.child({ component: 'api' }),
      cas: casRoutes({ store, chunks, actions, log }),
      answer: (call) => authority.answer({ ...call, user, hops: 0 }),
      status: async () =>
        statusOf(authority, {
          record: record(),
          version,
          user,
          store: {
            blobs: store.stats().count,
            bytes: store.stats().bytes,
            freeBytes: await freeBytes(config.data),
          },
          draining: offer?.isDraining ?? false,
          drain: local.ownDrain,
        }),
      async submit(id, body) {
        await authority.submit(
          requestFrom(id, body, { entry: record(), user, wallMs: clock.wallMs() }),
        )
        return authority.answer({
          verb: 'GET',
          path: `/api/requests/${id}`,
          body: '',
          user,
          hops: 0,
        })
      },
      events: (id, signal) => authority.events(id, 0, AbortSignal.any([signal, lifetime.signal])),
      shell: (job, query, signal) =>
        openShell(
          {
            shells: sessions.shells,
            environments: () => sessions.offer?.environments ?? [],
            node: config.name,
            ask: (path) => askOwner({ authority, user }, path),
          },
          job,
          query,
          AbortSignal.any([signal, lifetime.signal]),
        ),
      readLog: (job, options) => logs.read(job, options),
      obtain: (digest, options, signal) => blobs.obtainBlob(digest, options, signal),
      obtainAll: (entries, signal) => blobs.obtainAll(entries, signal),
      storage: {
        clock,
        store,
        node: config.name,
        directory: at('store'),
        obtain: (digest, options, signal) => blobs.obtainBlob(digest, options, signal),
      },
      takers: () => sessions.slots?.takers,
      mirrors: () => mirrorViews(blobs, clock),
      testMirrors: (query, signal) =>
        testMirrors({ clock, random, store, urls: config.mirrors }, query, signal),
    },
    { socket: directory.socketPath },
  )
  stack.defer(() => api.close())

  if (config.httpOpen && config.http !== undefined)
    log.warn({ http: config.http }, 'everybody who reaches the HTTP address may read blobs')
  stack.use(
    followStore({
      log,
      store,
      chunks,
      actions,
      announcer: authority.finding.announcer,
      isElsewhere: (digest) => local.providersOf(digest).some((peer) => peer !== peerId),
    }),
  )
  for (const { digest, size } of worker?.records?.kept() ?? [])
    authority.finding.announcer.add(digest, size, 'root')
  authority.start(record())
  plane.tokens.beat()
  if (offer !== undefined && config.images.length > 0) {
    const images = new DeclaredImages(
      {
        clock,
        log: log.child({ component: 'images' }),
        store,
        self: () => ({ peerId, name: config.name }),
        ask: (path, body) => authority.answer({ verb: 'POST', path, body, user, hops: 0 }),
        onChange: () => sessions.changed(),
      },
      config.images,
    )
    offer.images = () => images.ready
    stack.use(images).start()
  }
  await links.acceptChildren(authority, lifetime.signal)
  stack.use(
    heartbeat(clock, () => {
      sessions.changed()
      authority.beat()
      plane.tokens.beat()
      if (offer !== undefined) void refreshDisk(offer, config.data, log)
    }),
  )

  const ready: NodeFile = {
    v: 1,
    name: config.name,
    peerId,
    listen: host.listenAddresses(),
    http: http === undefined ? '' : urlOf('http', http),
    socket: directory.socketPath,
    pid: process.pid,
    protocols: PROTOCOLS,
  }
  await directory.publish(ready)
  let stopped: Promise<void> | undefined
  return {
    ready,
    summary:
      executor === undefined || offer === undefined
        ? []
        : [describeWorker(executor, offer), ...describePolicy(sessions.policy)],
    async reload(next) {
      sessions.policy?.setPolicy(next.policy)
      await sessions.machine?.declare(machineOptions(next))
    },
    drain: () => drain(clock, sessions),
    running: () => worker?.running.length ?? 0,
    async handBack() {
      await handBack(clock, sessions)
      await copies.bring(worker?.recentOutputs ?? [])
      await copies.flush()
    },
    stop() {
      stopped ??= rm(join(directory.path, NODE_FILE), { force: true }).then(() =>
        stack.disposeAsync(),
      )
      return stopped
    },
  }
}

async function openOwnExecutor(
  { clock, log }: DaemonDeps,
  config: Config,
): Promise<Executor | undefined> {
  if (!config.roles.includes('worker')) return undefined
  return openExecutor(
    { clock, log: log.child({ component: 'executor' }) },
    {
      directory: config.data,
      ...(config.isolation === 'host' ? { forbid: ['helper', 'bwrap', 'unshare'] } : {}),
    },
  )
}

/** Waits for all of them; what opened is disposed of by the stack even when another failed. */
async function openTogether<T extends readonly (AsyncDisposable | undefined)[]>(
  stack: AsyncDisposableStack,
  opening: { readonly [K in keyof T]: Promise<T[K]> },
): Promise<T> {
  const results = await Promise.allSettled(opening)
  for (const result of results) if (result.status === 'fulfilled') stack.use(result.value)
  return await Promise.all(opening)
}

function heartbeat(clock: Clock, beat: () => void): Disposable {
  let timer: Timer
  const arm = (): void => {
    timer = clock.setTimer(HEARTBEAT_MS, () => {
      beat()
      arm()
    })
  }
  arm()
  return { [Symbol.dispose]: () => timer.cancel() }
}

async function refreshDisk(offer: Offer, path: string, log: Logger): Promise<void> {
  try {
    offer.capacity = { ...offer.capacity, diskBytes: await freeBytes(path) }
  } catch (error) {
    log.warn({ path, reason: messageOf(error) }, 'free disk space could not be read')
  }
}

/** Lets running builds end and their outcomes reach the owner. */
async function drain(clock: Clock, sessions: Sessions): Promise<void> {
  const { worker, offer } = sessions
  if (worker === undefined || offer === undefined) return
  offer.isDraining = true
  sessions.changed()
  await worker.idle()
  await handIn(clock, sessions, worker)
}

async function handBack(clock: Clock, sessions: Sessions): Promise<void> {
  const { worker, offer } = sessions
  if (worker === undefined || offer === undefined) return
  offer.isDraining = true
  await worker.stop()
  sessions.changed()
  await handIn(clock, sessions, worker)
}

async function handIn(
  clock: Clock,
  sessions: Sessions,
  worker: Pick<Worker, 'finished'>,
): Promise<void> {
  const limit = deadline(clock, HAND_IN_MS, () => new Error('outcomes were not taken in time'))
  while (worker.finished.length > 0 && sessions.isConnected && !limit.signal.aborted)
    await sleep(clock, HAND_IN_STEP_MS)
  limit.cancel()
}
