/**
 * The socket at which the tools of one build hear how many jobs they should run: the protocol of
 * build-control (BUILDSOCKET, BUILDTOKEN), spoken so that the faults of its clients harm nobody.
 *
 * A client says `TOKEN` and a line end, and is told `N\r\n`, the absolute number, now and whenever it changes.
 * The token is good for as long as the build lives, for any number of clients and as often as they come. The
 * number is never below 1: to GNU make 0 means no limit, and ninja starts nothing with it.
 */
import { timingSafeEqual } from 'node:crypto'
import { closeSync, constants, openSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { basename, dirname } from 'node:path'
import type { Clock } from '../base/clock.ts'
import { MeshError, messageOf } from '../base/errors.ts'
import type { Random } from '../base/random.ts'

/** Clients of one build at once; one more is closed at once. */
export const CLIENTS_MAX = 1024
/** What a client may say before it has said its token. */
const HELLO_BYTES_MAX = 256
/** How long it may take to. */
const HELLO_MS = 30_000
/** Of an address of a unix socket, without the byte that ends it. */
export const SOCKET_PATH_BYTES_MAX = 107

/** `<number>-<24 hexadecimal digits>`, as build-control's own server makes them. */
export const makeToken = (random: Random): string =>
  `1-${Buffer.from(random.bytes(12)).toString('hex')}`

export class CountSocket implements AsyncDisposable {
  readonly path: string
  readonly #token: Buffer
  readonly #server: Server
  readonly #directoryFd: number
  readonly #clients = new Set<Client>()
  #count: number

  private constructor(
    options: { readonly path: string; readonly token: string; readonly count: number },
    server: Server,
    directoryFd: number,
  ) {
    this.path = options.path
    this.#token = Buffer.from(options.token)
    this.#count = Math.max(1, options.count)
    this.#server = server
    this.#directoryFd = directoryFd
  }

  /** Listens at `path`, in a directory that is there. Throws MESH0505. */
  static async open(
    { clock }: { readonly clock: Clock },
    options: { readonly path: string; readonly token: string; readonly count: number },
  ): Promise<CountSocket> {
    const server = createServer()
    // By way of the directory's descriptor, since the whole path may be longer than an address.
    const directoryFd = openSync(dirname(options.path), constants.O_RDONLY | constants.O_DIRECTORY)
    try {
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject)
        server.listen({ path: `/proc/self/fd/${directoryFd}/${basename(options.path)}` }, () => {
          server.off('error', reject)
          resolve()
        })
      })
    } catch (error) {
      closeSync(directoryFd)
      throw new MeshError('MESH0505', `${options.path}: listening: ${messageOf(error)}`, {
        cause: error,
      })
    }
    const socket = new CountSocket(options, server, directoryFd)
    server.on('error', () => {
      // One client could not be accepted: it builds without being told, and the others go on.
    })
    server.on('connection', (connection) => socket.#accept(clock, connection))
    return socket
  }

  get clientCount(): number {
    return this.#clients.size
  }

  /** Tells everybody, if it is another number. */
  set(count: number): void {
    const next = Math.max(1, count)
    if (next === this.#count) return
    this.#count = next
    for (const client of this.#clients) client.tell(next)
  }

  /** Whoever comes later is refused. */
  async [Symbol.asyncDispose](): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve))
    for (const client of this.#clients) client.end()
    await closed
    closeSync(this.#directoryFd)
  }

  #accept(clock: Clock, connection: Socket): void {
    // A client that went is seen at its `close`; why it went is of no interest.
    connection.on('error', () => {})
    if (this.#clients.size >= CLIENTS_MAX) {
      connection.destroy()
      return
    }
    const client = new Client(
      connection,
      (word) => this.#isToken(word),
      () => this.#count,
    )
    this.#clients.add(client)
    const deadline = clock.setTimer(HELLO_MS, () => client.endUnknown())
    connection.once('close', () => {
      deadline.cancel()
      this.#clients.delete(client)
    })
  }

  #isToken(word: Buffer): boolean {
    // Of equal length for the comparison, which then takes the same time whatever differs.
    const given = Buffer.alloc(this.#token.length)
    word.copy(given)
    return timingSafeEqual(given, this.#token) && word.length === this.#token.length
  }
}

/** One connection. */
class Client {
  readonly #socket: Socket
  readonly #current: () => number
  #hello: Buffer | undefined = Buffer.alloc(0)
  #told: number | undefined

  constructor(socket: Socket, isToken: (word: Buffer) => boolean, current: () => number) {
    this.#socket = socket
    this.#current = current
    socket.on('data', (bytes: Buffer) => this.#heard(bytes, isToken))
  }

  /** At most one number waits in this process for a client that does not read: then comes the latest. */
  tell(count: number): void {
    if (this.#hello !== undefined || this.#told === count || this.#socket.writableLength > 0) return
    this.#told = count
    this.#socket.write(`${count}\r\n`, () => this.tell(this.#current()))
  }

  end(): void {
    this.#socket.destroy()
  }

  endUnknown(): void {
    if (this.#hello !== undefined) this.#socket.destroy()
  }

  /** What known clients say is read and thrown away: left unread it would keep us from hearing their end. */
  #heard(bytes: Buffer, isToken: (word: Buffer) => boolean): void {
    if (this.#hello === undefined) return
    this.#hello = Buffer.concat([this.#hello, bytes.subarray(0, HELLO_BYTES_MAX + 1)])
    const said = this.#hello.toString('latin1').trimStart()
    const end = said.search(/[\r\n]/)
    if (end === -1 && this.#hello.length <= HELLO_BYTES_MAX) return
    if (end === -1 || !isToken(Buffer.from(said.slice(0, end).trimEnd(), 'latin1'))) {
      this.#socket.destroy()
      return
    }
    this.#hello = undefined
    this.tell(this.#current())
  }
}
