/** The supervisor of parent links: with a stepped clock and links that do as told, then over libp2p with kill -9. */
import assert from 'node:assert/strict'
import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { test } from 'node:test'
import { systemClock } from '../../src/base/clock.ts'
import { MeshError } from '../../src/base/errors.ts'
import { createParents, type Parents } from '../../src/node/links/parents.ts'
import { openPeerLink, type PeerLink } from '../../src/node/links/peer-link.ts'
import { WORK_FRAME_BYTES_MAX } from '../../src/wire/frame-channel.ts'
import { WORK_PROTOCOL } from '../../src/wire/work-messages.ts'
import { log, random, StepClock, turnOver } from '../store/support.ts'
import { hello, host, LOOPBACK, until } from './hosts.ts'

const FIRST = '/ip4/192.0.2.1/tcp/1'
const SECOND = '/ip4/192.0.2.2/tcp/1'

/** A world of parents that are up or down. */
class World {
  readonly clock = new StepClock()
  readonly up = new Set<string>()
  readonly hanging = new Set<string>()
  /** When each try was made, and where. */
  readonly tries: [number, string][] = []
  readonly links: PeerLink[] = []
  readonly parents: Parents

  constructor(addresses: readonly string[]) {
    this.parents = createParents(
      {
        clock: this.clock,
        random,
        log,
        connect: async (address, { signal }) => {
          this.tries.push([this.clock.nowMs(), address])
          if (this.hanging.has(address))
            await new Promise((_, reject) =>
              signal.addEventListener('abort', () => reject(signal.reason)),
            )
          if (!this.up.has(address)) throw new MeshError('MESH0120', `${address}: down`)
          return fakeLink(address)
        },
      },
      { addresses, onLink: (link) => this.links.push(link) },
    )
  }

  /** Lets `ms` pass in small steps, with turns for the promises. */
  async pass(ms: number): Promise<void> {
    for (let left = ms; left > 0; left -= 25) {
      this.clock.step(Math.min(25, left))
      await turnOver()
    }
  }
}

function unused(): never {
  assert.fail('not used here')
}

function fakeLink(peerId: string): PeerLink {
  const closed = Promise.withResolvers<string>()
  return {
    peerId,
    remote: hello(peerId, 'parent'),
    requestSync: unused,
    requestDesired: unused,
    call: unused,
    stream: unused,
    close: closed.resolve,
    closed: closed.promise,
  }
}

test('parents: the first reachable one in the order of preference is taken', async () => {
  const world = new World([FIRST, SECOND])
  world.up.add(SECOND)
  world.parents.start()
  world.parents.start()
  await turnOver()
  assert.equal(world.parents.link()?.peerId, SECOND)
  assert.deepEqual(world.parents.status(), [
    { address: FIRST, connected: false, error: `${FIRST}: down` },
    { address: SECOND, connected: true, error: null },
  ])
  world.up.add(FIRST)
  await world.pass(60_000)
  assert.equal(world.links.length, 1, 'a link that works is kept')
  world.links[0]?.close('the peer hung up')
  await turnOver()
  assert.equal(world.parents.link()?.peerId, FIRST, 'reconnects at once, by preference')
  assert.equal(world.parents.status()[1]?.error, 'the peer hung up')
  await world.parents.stop()
})

test('parents: tries for ever, from a quarter of a second up to 15 s apart', async () => {
  const world = new World([FIRST])
  world.parents.start()
  await turnOver()
  await world.pass(600_000)
  const gaps = world.tries.slice(1).map(([atMs], index) => atMs - (world.tries[index]?.[0] ?? 0))
  assert(gaps.length > 40, `${gaps.length} tries in 10 minutes`)
  assert((gaps[0] ?? 0) >= 125 && (gaps[0] ?? 0) <= 275, `first after ${gaps[0]} ms`)
  assert(
    gaps.every((gap) => gap <= 15_025),
    'never more than 15 s',
  )
  assert(
    gaps.slice(10).every((gap) => gap >= 7_500),
    'backs off',
  )
  world.up.add(FIRST)
  await world.pass(15_025)
  assert(world.parents.link() !== undefined)
  await world.parents.stop()
})

test('parents: a parent that drops each new link is not hammered', async () => {
  const world = new World([FIRST])
  world.up.add(FIRST)
  world.parents.start()
  for (let round = 0; round < 2_000; round++) {
    world.parents.link()?.close('go away')
    await world.pass(25)
  }
  assert(world.tries.length < 20, `${world.tries.length} tries in 50 s`)
  await world.parents.stop()
})

test('parents: one that hangs is left after 15 s for the next', async () => {
  const world = new World([FIRST, SECOND])
  world.hanging.add(FIRST)
  world.up.add(SECOND)
  world.parents.start()
  await world.pass(14_975)
  assert.equal(world.parents.link(), undefined)
  await world.pass(50)
  assert.equal(world.parents.link()?.peerId, SECOND)
  assert.match(world.parents.status()[0]?.error ?? '', /no link within 15 s/)
  await world.parents.stop()
})

test('parents: stop ends link, tries and waits, is idempotent, and works without a start', async () => {
  for (const state of ['unstarted', 'waiting', 'connecting', 'linked']) {
    const world = new World([FIRST])
    if (state === 'connecting') world.hanging.add(FIRST)
    if (state === 'linked') world.up.add(FIRST)
    if (state !== 'unstarted') world.parents.start()
    await turnOver()
    await Promise.all([world.parents.stop(), world.parents.stop()])
    assert.equal(world.parents.link(), undefined, state)
    if (state === 'linked') assert.equal(await world.links[0]?.closed, 'this node is stopping')
    const count = world.tries.length
    await world.pass(30_000)
    assert.equal(world.tries.length, count, state)
  }
})

test('parents: without addresses there is nothing to do', async () => {
  await using parents = new World([]).parents
  parents.start()
  assert.deepEqual(parents.status(), [])
})

async function startParent(
  identity: number,
  listen: string,
): Promise<{ child: ChildProcess; address: string }> {
  const child = fork(
    join(import.meta.dirname, 'idle-host.ts'),
    [String(identity), listen, WORK_PROTOCOL],
    { execArgv: [] },
  )
  const [[address]] = await once(child, 'message')
  return { child, address }
}

test('parents: the link comes back after the parent was killed and started again', async () => {
  // That parent answers each frame with itself: the hello that comes back is this node's own.
  await using node = await host(31, { listen: [] })
  const first = await startParent(32, LOOPBACK)
  const links: PeerLink[] = []
  const clock = systemClock()
  await using parents = createParents(
    {
      clock,
      random,
      log,
      connect: async (address, { signal }) => {
        const channel = await node.open({ addresses: [address] }, WORK_PROTOCOL, {
          frameBytesMax: WORK_FRAME_BYTES_MAX,
          signal,
        })
        const own = hello(channel.remotePeer, 'echo')
        return openPeerLink(
          { channel, clock, log },
          { hello: own, handlers: () => ({ onCall: () => assert.fail('no calls') }), signal },
        )
      },
    },
    { addresses: [first.address], onLink: (link) => links.push(link) },
  )
  parents.start()
  await until(() => links.length === 1)
  first.child.kill('SIGKILL')
  assert.equal(await links[0]?.closed, 'the peer hung up')
  await until(() => /ECONNREFUSED/.test(parents.status()[0]?.error ?? ''))
  const second = await startParent(32, first.address.replace(/\/p2p\/.*/, ''))
  assert.equal(second.address, first.address)
  await until(() => links.length === 2)
  assert.deepEqual(parents.status(), [{ address: first.address, connected: true, error: null }])
  second.child.kill('SIGKILL')
})
