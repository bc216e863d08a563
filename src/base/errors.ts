/**
 * Every error a person can meet: one append-only table of codes, and the exception that carries one.
 *
 * `mesh explain CODE` and docs/errors.md are made from this table. A code never changes its meaning;
 * a retired one stays in the table.
 */

/** Exit codes of `mesh`, after reference practice (Bazel, sysexits). Scripts rely on them. */
export const EXIT = {
  ok: 0,
  buildFailed: 1,
  usage: 2,
  notReproducible: 3,
  unsatisfiable: 4,
  notFound: 5,
  cancelled: 8,
  unavailable: 69,
  internal: 70,
  noSpace: 73,
  temporary: 75,
  configuration: 78,
  denied: 77,
} as const

interface ErrorEntry {
  /** One short sentence, without the observed values: those are in the message. */
  readonly title: string
  readonly exit: number
  /** Whether the same command may work later with nothing changed by its user. */
  readonly retryable: boolean
  /** What it means and what to do, for `mesh explain`. */
  readonly explain: string
}

const TABLE = {
  MESH0001: entry(
    'a bug in mesh',
    EXIT.internal,
    false,
    'Something happened that the program rules out. The message and the log of the node say where. Please report both.',
  ),
  MESH0002: entry(
    'bad usage of a command',
    EXIT.usage,
    false,
    'The command line has an unknown option, a missing argument or a value of the wrong form. `mesh COMMAND --help` shows the right one.',
  ),
  MESH0101: entry(
    'the mesh daemon is not running on this machine',
    EXIT.unavailable,
    true,
    'The client found no daemon at any of the sockets that it names. Start one with `mesh-node`, or name another with --data, --socket or MESH_SOCKET. Nothing is ever started silently.',
  ),
  MESH0102: entry(
    'the socket of the daemon may not be used by this user',
    EXIT.denied,
    false,
    'The socket exists, but its mode and group do not let you in. A daemon of the system lets members of the group "mesh" in.',
  ),
  MESH0103: entry(
    'an address to listen on is taken',
    EXIT.unavailable,
    true,
    'Another process listens on the address already. See which with `ss -ltnp`, or choose another: --http HOST:PORT, --listen MULTIADDR; port 0 takes a free one.',
  ),
  MESH0104: entry(
    'a configuration value is wrong',
    EXIT.usage,
    false,
    'A flag, an environment variable or a line of the configuration file has an unknown name or a value of the wrong form. `mesh-node config check` names each, `mesh-node config schema` prints what is allowed.',
  ),
  MESH0105: entry(
    'the data directory is used by another daemon',
    EXIT.unavailable,
    true,
    'Two daemons cannot share one data directory. Stop the other one, whose pid is in node.json, or give this one its own with --data.',
  ),
  MESH0106: entry(
    'the data directory was written by a newer version',
    EXIT.configuration,
    false,
    'The store or the journal has a format that this version does not know. Use the version that wrote it, or another data directory.',
  ),
  MESH0107: entry(
    'listening beyond this machine needs a list of admitted peers',
    EXIT.usage,
    false,
    'On an address that other machines reach, a node admits only the peers named with --allow PEERID (repeatable). `--allow any` admits everybody and is warned about at every start.',
  ),
  MESH0108: entry(
    'the node is stopping',
    EXIT.temporary,
    true,
    'The daemon was told to stop and takes nothing new. Try again when it runs again.',
  ),
  MESH0120: entry(
    'the root of the mesh cannot be reached',
    EXIT.unavailable,
    true,
    'None of the parents answers. The message has each address tried with its own result. What was accepted is kept and sent when the root is back.',
  ),
  MESH0121: entry(
    'two nodes speak different versions of the protocol',
    EXIT.unavailable,
    false,
    'The ranges of protocol versions of the two nodes do not overlap. Upgrade the older node.',
  ),
  MESH0123: entry(
    'a peer was refused',
    EXIT.denied,
    false,
    'The other node does not admit this peer id. Add it there with --allow PEERID.',
  ),
  MESH0201: entry(
    'a file has a syntax error',
    EXIT.usage,
    false,
    'The file is not well-formed TOML or JSON. The message has file, line and column.',
  ),
  MESH0202: entry(
    'a file has an unknown key',
    EXIT.usage,
    false,
    'Unknown keys are refused so that a typing error cannot silently change a build. The message names the nearest known key.',
  ),
  MESH0203: entry(
    'a file has a bad value',
    EXIT.usage,
    false,
    'A value has the wrong type or form. The message says what is expected and shows the line.',
  ),
  MESH0204: entry(
    'the derivations depend on each other in a circle',
    EXIT.usage,
    false,
    'An output cannot be an input of what it is made from. The message shows the circle.',
  ),
  MESH0205: entry(
    'a local file named as an input does not exist',
    EXIT.usage,
    false,
    'Paths are relative to the file that names them. The message has the path looked for.',
  ),
  MESH0206: entry(
    'a reference names no derivation or output',
    EXIT.usage,
    false,
    'References have the form DERIVATION.OUTPUT; DERIVATION alone means its output "out".',
  ),
  MESH0207: entry(
    'a file or tree cannot be stored',
    EXIT.usage,
    false,
    'Only files, directories and symbolic links with valid UTF-8 names can be inputs or outputs: no sockets, devices or pipes.',
  ),
  MESH0208: entry(
    'two outputs would be written to one place',
    EXIT.usage,
    false,
    'The output `out` of a derivation is put at DIR/DERIVATION, others at DIR/DERIVATION.OUTPUT. Rename one of the two derivations.',
  ),
  MESH0209: entry(
    'the place for the outputs holds something else',
    EXIT.usage,
    false,
    'mesh replaces only what an earlier submit put there. Choose another directory with -o, or remove it yourself.',
  ),
  MESH0210: entry(
    'an object is not in its canonical form',
    EXIT.usage,
    false,
    'Trees, actions and other hashed objects have exactly one encoding. One with unsorted, duplicate, absolute or escaping names, other types or trailing bytes is refused whole.',
  ),
  MESH0211: entry(
    'a request is over a limit',
    EXIT.usage,
    false,
    'The message names the limit, its value and the observed one. ARCHITECTURE.md lists all limits.',
  ),
  MESH0301: entry(
    'no node can build it',
    EXIT.unsatisfiable,
    false,
    'No node of the mesh, busy or away, meets all requirements. `mesh why JOB` shows each node with each requirement. Without --no-wait the job waits (24 hours by default) for such a node to appear.',
  ),
  MESH0302: entry(
    'waited too long for a node',
    EXIT.unsatisfiable,
    false,
    'No matching node came within the wait limit. `mesh why JOB` told the reason while it waited.',
  ),
  MESH0303: entry(
    'too many requests wait',
    EXIT.temporary,
    true,
    'The owner keeps a bounded number of unfinished requests. Nothing was accepted; try again later.',
  ),
  MESH0304: entry(
    'the request was cancelled',
    EXIT.cancelled,
    false,
    'Somebody cancelled it with `mesh cancel` or ^C. Jobs that other requests need went on.',
  ),
  MESH0401: entry(
    'a builder failed',
    EXIT.buildFailed,
    false,
    'The command ended with an exit code other than 0 or by a signal. `mesh logs JOB` shows all it printed. Failures are never cached and not retried: the same action would fail again.',
  ),
  MESH0402: entry(
    'a build ran into a limit',
    EXIT.buildFailed,
    false,
    'It ran longer than run.timeout, printed nothing for run.max-silent, printed more than run.max-log, made larger outputs than run.max-output, took more of the disk than needs.disk, or tried to have more processes than its node lets one build have; the message says which, and how much. It and all its processes were killed. It is not retried, for it would end the same way.',
  ),
  MESH0403: entry(
    'a builder did not make an output',
    EXIT.buildFailed,
    false,
    'The command ended with 0 but did not create every declared output. The message names those that it made.',
  ),
  MESH0404: entry(
    'a build ran out of memory',
    EXIT.buildFailed,
    false,
    'The kernel ended a process of it for want of memory. It was tried again with twice as much, four times at most, as far as a node that matches has it; the message says with how much. What was needed in the end is remembered for the next time. Raise needs.memory, or give the mesh a bigger machine.',
  ),
  MESH0405: entry(
    'the outputs are not reproducible',
    EXIT.notReproducible,
    false,
    'Several nodes were to build it (run.verify, --verify), and what they made differs, or it failed on one of them only. Both outputs are kept: `mesh jobs diff JOB` names the files and the first bytes that differ. Usual causes are times, random names, the order of directory listings, and the number of processors.',
  ),
  MESH0406: entry(
    'the builder was not found',
    EXIT.buildFailed,
    false,
    'The program to run does not exist or cannot be executed in the environment of the build. A sealed build sees the tool directories of the host and its declared inputs, nothing else.',
  ),
  MESH0407: entry(
    'a source has another sha256 than declared',
    EXIT.buildFailed,
    false,
    'What the URL serves is not what the derivation names. Nothing of it was kept. Correct sha256 if the new content is what you want.',
  ),
  MESH0408: entry(
    'an output cannot be stored',
    EXIT.buildFailed,
    false,
    'An output holds a socket, a device, a name that is not UTF-8, or more than the limits allow.',
  ),
  MESH0501: entry(
    'an input is not available',
    EXIT.temporary,
    true,
    'No peer and no mirror that can be reached has the blob. If it is the output of a derivation it was built again first, up to the limit.',
  ),
  MESH0502: entry(
    'a source sent wrong bytes',
    EXIT.temporary,
    true,
    'The bytes did not match their digest; they were discarded, and the source is not asked again for some time. Another source was used if there was one.',
  ),
  MESH0503: entry(
    'the disk is full',
    EXIT.noSpace,
    true,
    'The file system of the data directory has no room left. The node takes no new jobs until there is room.',
  ),
  MESH0504: entry(
    'a source cannot be fetched',
    EXIT.temporary,
    true,
    'None of the URLs of a declared source, and no mirror, answered with it. The message has each with its own result.',
  ),
  MESH0505: entry(
    'the infrastructure failed',
    EXIT.temporary,
    true,
    'The nodes that ran the job were lost or could not run it, more often than run.retries allows. It says nothing about the build itself.',
  ),
  MESH0506: entry(
    'a lost output could not be rebuilt',
    EXIT.temporary,
    true,
    'An output that a later job needs vanished from all stores, and building it again did not bring it back within the limit.',
  ),
  MESH0507: entry(
    'nodes died of a job',
    EXIT.temporary,
    true,
    'Several times the node that ran the job was lost or restarted while it ran, so it is given to no other for a day. The message names the nodes: look at what became of them, often they ran out of memory. `mesh retry JOB` tries it again all the same.',
  ),
  MESH0601: entry(
    'no such thing',
    EXIT.notFound,
    false,
    'No request, job, node or blob has this name or prefix. `mesh jobs`, `mesh jobs --requests` and `mesh nodes` list what there is.',
  ),
  MESH0602: entry(
    'a name is ambiguous',
    EXIT.usage,
    false,
    'Any unique prefix is accepted. The message lists the candidates.',
  ),
  MESH0603: entry(
    'the operation is not allowed here',
    EXIT.denied,
    false,
    'Over TCP without a token a node answers reads only. Use the unix socket of the daemon.',
  ),
  MESH0604: entry(
    'the thing is not in a state for that',
    EXIT.usage,
    false,
    'What was asked cannot be done with a job, request or node as it is now. The message says how it is, and what can be done instead.',
  ),
} as const satisfies Record<string, ErrorEntry>

function entry(title: string, exit: number, retryable: boolean, explain: string): ErrorEntry {
  return { title, exit, retryable, explain }
}

export type ErrorCode = keyof typeof TABLE

/** The table, for documentation and tests. Sorted by code. */
export const ERRORS: Readonly<Record<ErrorCode, ErrorEntry>> = TABLE

export function isErrorCode(text: string): text is ErrorCode {
  return Object.hasOwn(TABLE, text)
}

export interface MeshErrorOptions {
  readonly cause?: unknown
  /** `file:line:column`, a node's name, a URL. */
  readonly where?: string
  /** What to do, one command or sentence each. */
  readonly hints?: readonly string[]
}

/** An error with a code of the table; the message has the observed values in one or more lines. */
export class MeshError extends Error {
  override readonly name = 'MeshError'
  readonly code: ErrorCode
  readonly where: string | undefined
  readonly hints: readonly string[]

  constructor(code: ErrorCode, message: string, options: MeshErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.code = code
    this.where = options.where
    this.hints = options.hints ?? []
  }

  get exit(): number {
    return TABLE[this.code].exit
  }
}

/** Whether `error` carries the given operating system code (`ENOENT` ...) or library code. */
export function hasCode(error: unknown, ...codes: readonly string[]): boolean {
  return error instanceof Error && 'code' in error && codes.includes(String(error.code))
}

/** Whether a disk, or a quota on it, is full. */
export const isDiskFull = (error: unknown): boolean => hasCode(error, 'ENOSPC', 'EDQUOT')

/** The text of anything thrown, for a message that names a cause. */
export function messageOf(error: unknown): string {
  if (error instanceof AggregateError) return error.errors.map(messageOf).join('; ')
  return error instanceof Error ? error.message : String(error)
}
