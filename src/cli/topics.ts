/** What `mesh explain` tells besides the error codes. */

interface Topic {
  readonly title: string
  /** Those that begin with two spaces are shown as they are. */
  readonly paragraphs: readonly string[]
}

export const TOPICS = {
  cross: {
    title: 'building on machines of another system',
    paragraphs: [
      'A derivation runs on machines of its own "system" unless it says how to build on others. A block "when" says that: what it takes in addition on machines of another system, usually a cross compiler, and the environment that makes the builder use it.',
      `  [derivation.kernel]
  system = "aarch64-linux"                # what the outputs are for

  [[derivation.kernel.when]]
  host = "x86_64-linux"                   # a machine that may build it as well
  inputs.toolchain = { path = "./cross-gcc" }
  env = { CC = "$toolchain/bin/aarch64-linux-gnu-gcc" }`,
      'With the block all machines of that system match. The outputs of each way of building are results of their own: which one was taken is seen in "mesh jobs --json". With "needs.host" only the machines named there are taken, whatever blocks there are.',
    ],
  },
} as const satisfies Record<string, Topic>

export function isTopic(text: string): text is keyof typeof TOPICS {
  return Object.hasOwn(TOPICS, text)
}
