/**
 * BUILDSOCKET, byte by byte: the protocol of build-control, and what the faults of its clients and of others
 * do to it.
 */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdtemp, rm, stat } from 'node:fs/promises'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { setImmediate } from 'node:timers/promises'
import { promisify } from 'node:util'
import { systemRandom } from '../../src/base/random.ts'
import { CLIENTS_MAX, CountSocket, makeToken } from '../../src/jobs/count-socket.ts'
import { until } from '../build/builds.ts'
import { ManualClock } from '../node/manual-clock.ts'

const TOKEN = makeToken(systemRandom())

class Tool {
  readonly socket: Socket
  heard = ''
  isOver = false

  constructor(path: string) {
    this.socket = connect({ path, allowHalfOpen: true })
    this.socket.setEncoding('latin1').on('data', (text: string) => {
      this.heard += text
    })
    this.socket.on('error', () => {
      // A refusal may come as a reset.
    })
    this.socket.on('close', () => {
      this.isOver = true
    })
    this.socket.on('end', () => {
      this.isOver = true
    })
  }

  say(text: string): this {
    this.socket.write(text, 'latin1')
    return this
  }
  hears(text: string): Promise<void> {
    return until(`a client hears ${JSON.stringify(text)}`, () => this.heard === text)
  }
  async isRefused(): Promise<void> {
    await until('a client is refused', () => this.isOver)
    assert.equal(this.heard, '')
  }
}

class Place implements AsyncDisposable {
  readonly clock: ManualClock
  readonly server: CountSocket
  readonly #directory: string
  readonly #tools: Tool[] = []

  private constructor(clock: ManualClock, server: CountSocket, directory: string) {
    this.clock = clock
    this.server = server
    this.#directory = directory
  }

  static async open(count = 4, name = 'mesh-count-'): Promise<Place> {
    const directory = await mkdtemp(join(tmpdir(), name))
    const clock = new ManualClock()
    const path = join(directory, 'buildsocket')
    const server = await CountSocket.open({ clock }, { path, token: TOKEN, count })
    return new Place(clock, server, directory)
  }

  tool(path = this.server.path): Tool {
    const tool = new Tool(path)
    this.#tools.push(tool)
    return tool
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.server[Symbol.asyncDispose]()
    for (const { socket } of this.#tools) socket.destroy()
    await rm(this.#directory, { recursive: true })
  }
}

test('count socket: a token is a number and 24 hexadecimal digits', () => {
  assert.match(TOKEN, /^\d+-[0-9a-f]{24}$/)
  assert.notEqual(makeToken(systemRandom()), TOKEN)
})

test('count socket: a client is told at once, and of each change, absolutely', async () => {
  await using place = await Place.open(4)
  const tool = place.tool().say(`${TOKEN}\r\n`)
  await tool.hears('4\r\n')
  place.server.set(16)
  await tool.hears('4\r\n16\r\n')
  place.server.set(16)
  place.server.set(2)
  await tool.hears('4\r\n16\r\n2\r\n')
})

test('count socket: every client of a token is told, a hundred sub-makes and a late one', async () => {
  await using place = await Place.open(4)
  const tools = Array.from({ length: 100 }, () => place.tool().say(`${TOKEN}\r\n`))
  for (const tool of tools) await tool.hears('4\r\n')
  place.server.set(1)
  for (const tool of tools) await tool.hears('4\r\n1\r\n')
  await place.tool().say(`${TOKEN}\r\n`).hears('1\r\n')
})

test('count socket: never 0, never less', async () => {
  await using place = await Place.open(0)
  const tool = place.tool().say(`${TOKEN}\n`)
  await tool.hears('1\r\n')
  place.server.set(0)
  place.server.set(-3)
  place.server.set(2)
  await tool.hears('1\r\n2\r\n')
})

for (const [what, pieces] of [
  ['CR and LF', [`${TOKEN}\r\n`]],
  ['LF', [`${TOKEN}\n`]],
  ['CR', [`${TOKEN}\r`]],
  ['blanks around', [`  \t${TOKEN} \r\n`]],
  ['empty lines before', [`\r\n\n${TOKEN}\r\n`]],
  ['token and line end apart', [TOKEN, '\r\n']],
  ['CR and LF apart', [`${TOKEN}\r`, '\n']],
  ['single bytes', `${TOKEN}\r\n`.split('')],
] as const)
  test(`count socket: a token is understood with ${what}`, async () => {
    await using place = await Place.open(7)
    const tool = place.tool()
    for (const piece of pieces)
      await new Promise((resolve) => tool.socket.write(piece, 'latin1', resolve))
    await tool.hears('7\r\n')
  })

const [, hash = ''] = TOKEN.split('-')
for (const [what, said] of [
  ['a wrong hash', `1-${'0'.repeat(24)}\r\n`],
  ['another index', `2-${hash}\r\n`],
  ['the beginning of a token', `${TOKEN.slice(0, -1)}\r\n`],
  ['a token and more', `${TOKEN}0\r\n`],
  ['a token and a word', `${TOKEN} 1\r\n`],
  ['no ASCII', 'ÿþýü\r\n'],
  ['a NUL', `${TOKEN}\0\r\n`],
] as const)
  test(`count socket: ${what} is refused without a word`, async () => {
    await using place = await Place.open()
    await place.tool().say(said).isRefused()
    assert.equal(place.server.clientCount, 0)
  })

test('count socket: a megabyte of garbage is refused, and others hear nothing of it', async () => {
  await using place = await Place.open(4)
  const good = place.tool().say(`${TOKEN}\r\n`)
  await good.hears('4\r\n')
  await place
    .tool()
    .say('x'.repeat(1024 * 1024))
    .isRefused()
  place.server.set(5)
  await good.hears('4\r\n5\r\n')
})

test('count socket: who says nothing is sent away after a while, who has said its token is not', async () => {
  await using place = await Place.open(4)
  const silent = place.tool().say('1-')
  const good = place.tool().say(`${TOKEN}\r\n`)
  await good.hears('4\r\n')
  await until('both are there', () => place.server.clientCount === 2)
  place.clock.step(30_000)
  await silent.isRefused()
  place.server.set(5)
  await good.hears('4\r\n5\r\n')
})

test('count socket: a client that left after its first number comes back with the same token', async () => {
  await using place = await Place.open(4)
  for (const count of [4, 5]) {
    place.server.set(count)
    const tool = place.tool().say(`${TOKEN}\r\n`)
    await tool.hears(`${count}\r\n`)
    tool.socket.destroy()
    await until('nobody is left', () => place.server.clientCount === 0)
  }
})

test('count socket: what clients say later is thrown away, and their end is seen', async () => {
  await using place = await Place.open(4)
  const talker = place.tool().say(`${TOKEN}\r\n`)
  await talker.hears('4\r\n')
  talker.say('y'.repeat(256 * 1024))
  place.server.set(6)
  await talker.hears('4\r\n6\r\n')
  // Half of a connection closed is an end.
  talker.socket.end()
  await until('it is gone', () => place.server.clientCount === 0)
})

test('count socket: a reset or a reader that reads nothing stalls nobody, and it hears the last number', async () => {
  await using place = await Place.open(1)
  const [good, slow, reset] = [place.tool(), place.tool(), place.tool()]
  for (const tool of [good, slow, reset]) await tool.say(`${TOKEN}\r\n`).hears('1\r\n')
  slow.socket.pause()
  reset.socket.pause()
  // More than the kernel holds for the slow one: each write takes near a kilobyte of it.
  for (let count = 2; count <= 20_000; count++) {
    place.server.set(count)
    await setImmediate()
    // Closed with numbers unread, which the other side sees as a reset.
    if (count === 10) reset.socket.destroy()
  }
  await until('the good one hears the last', () => good.heard.endsWith('\r\n20000\r\n'))
  slow.socket.resume()
  await until('the slow one hears the last', () => slow.heard.endsWith('\r\n20000\r\n'))
  assert(slow.heard.length < good.heard.length, 'numbers waited for the slow one')
})

test('count socket: one client too many is sent away', async () => {
  await using place = await Place.open(3)
  const tools: Tool[] = []
  while (tools.length < CLIENTS_MAX) {
    // No more at a time than wait to be accepted.
    for (let at = 0; at < 128; at++) tools.push(place.tool())
    await until('they are there', () => place.server.clientCount === tools.length)
  }
  await place.tool().say(`${TOKEN}\r\n`).isRefused()
  await tools[0]?.say(`${TOKEN}\r\n`).hears('3\r\n')
})

test('count socket: once the build is over its token is good for nothing', async () => {
  const place = await Place.open(4)
  const tool = place.tool().say(`${TOKEN}\r\n`)
  await tool.hears('4\r\n')
  await place.server[Symbol.asyncDispose]()
  await until('it is told', () => tool.isOver)
  await assert.rejects(stat(place.server.path), { code: 'ENOENT' })
  const late = place.tool().say(`${TOKEN}\r\n`)
  await late.isRefused()
  tool.socket.destroy()
  late.socket.destroy()
})

test('count socket: it listens in a directory whose path is longer than an address', async () => {
  const long = 'l'.repeat(120)
  await using place = await Place.open(4, `mesh-${long}-`)
  // A client reaches it as a build does: by a short path to the same directory.
  const link = join(tmpdir(), `mesh-count-${process.pid}`)
  await promisify(execFile)('ln', ['-s', join(place.server.path, '..'), link])
  try {
    await place.tool(join(link, 'buildsocket')).say(`${TOKEN}\r\n`).hears('4\r\n')
  } finally {
    await rm(link)
  }
})
