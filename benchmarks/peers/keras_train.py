"""Keras' side of a speed benchmark, on the backend that KERAS_BACKEND names: jax or tensorflow.

The step alone is the training loop of Keras' guides for the backend: a jitted function of stateless
calls for JAX; tf.function and GradientTape for TensorFlow, compiled by XLA on a GPU but not on CPU,
where TensorFlow's kernels are faster. bfloat16 is the policy mixed_bfloat16.

An epoch is model.fit over a tf.data pipeline that shuffles, pads, crops, flips and normalises
single images, in parallel and ahead of the step, as in tutorials. The images are random, because
the time of a step does not depend on the pixels.
"""

import importlib.metadata
import os

import common
import keras
import keras_models
import numpy as np
import tensorflow as tf  # for tf.data, on any backend

BACKEND = os.environ.get("KERAS_BACKEND", "tensorflow")


def main():
  options = common.parse(__doc__)
  if BACKEND == "jax":
    tf.config.set_visible_devices([], "GPU")  # tf.data needs no GPU
  if options.threads:
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
  keras.utils.set_random_seed(0)
  if options.dtype == "bfloat16":
    keras.config.set_dtype_policy("mixed_bfloat16")
  model = keras_models.create(options.model, common.CLASSES)
  count = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
  moving = [v for v in model.non_trainable_variables if "moving" in v.name]
  common.check_parameters(options.model, count, sum(int(np.prod(v.shape)) for v in moving))
  optimizer = keras.optimizers.SGD(common.LEARNING_RATE, common.MOMENTUM, nesterov=True)
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

  rng = np.random.default_rng(0)
  images = rng.normal(size=(options.batch, 32, 32, 3)).astype("float32")
  labels = rng.integers(0, common.CLASSES, options.batch).astype("int32")
  loops = {}
  for kind in options.inputs.split(","):
    if kind == "predict":
      loops[kind] = predict_loop(model, images)
    elif kind == "constant":
      loop = {"jax": jax_loop, "tensorflow": tensorflow_loop}[BACKEND]
      loops[kind] = loop(model, optimizer, loss, images, labels)
    else:
      loops[kind] = fit_loop(model, loss, options, augmented=kind == "augmented")

  def run(kind, steps):
    steps = steps or options.examples // options.batch
    loops[kind](steps)
    return steps

  names = ["keras", "jax"] if BACKEND == "jax" else ["keras", "tensorflow"]
  versions = {name: version(name) for name in names}
  common.serve(options, run, versions, {"kind": device()})


def jax_loop(model, optimizer, loss, images, labels):
  """Return a function that takes steps on one batch, on JAX."""
  import jax

  optimizer.build(model.trainable_variables)

  def compute_loss(trainable, non_trainable, x, y):
    logits, non_trainable = model.stateless_call(trainable, non_trainable, x, training=True)
    return loss(y, logits), non_trainable

  gradient = jax.value_and_grad(compute_loss, has_aux=True)

  @jax.jit(donate_argnums=0)
  def step(state, x, y):
    trainable, non_trainable, optimizer_state = state
    (value, non_trainable), gradients = gradient(trainable, non_trainable, x, y)
    trainable, optimizer_state = optimizer.stateless_apply(optimizer_state, gradients, trainable)
    return (trainable, non_trainable, optimizer_state), value

  # Copies, because the step donates its arguments, and fit() uses the variables' memory.
  state = [
    [jax.numpy.array(v.value) for v in variables]
    for variables in (
      model.trainable_variables,
      model.non_trainable_variables,
      optimizer.variables,
    )
  ]
  x, y = jax.device_put((images, labels))

  def run(steps):
    nonlocal state
    for _ in range(steps):
      state, _ = step(state, x, y)
    jax.block_until_ready(state)

  return run


def tensorflow_loop(model, optimizer, loss, images, labels):
  """Return a function that takes steps on one batch, on TensorFlow."""
  x, y = tf.constant(images), tf.constant(labels)

  @tf.function(jit_compile=bool(tf.config.list_physical_devices("GPU")))
  def step(x, y):
    with tf.GradientTape() as tape:
      value = loss(y, model(x, training=True))
    gradients = tape.gradient(value, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    return value

  optimizer.build(model.trainable_variables)

  def run(steps):
    for _ in range(steps):
      value = step(x, y)
    value.numpy()  # waits for all steps, which the device runs in order

  return run


def predict_loop(model, images):
  """Return a function that predicts one batch several times, as Keras' guides do for one batch."""

  def run(steps):
    for _ in range(steps):
      model.predict_on_batch(images)

  return run


def fit_loop(model, loss, options, augmented):
  """Return a function that takes steps by model.fit over a tf.data pipeline."""
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (options.examples, 32, 32, 3), np.uint8)
  labels = rng.integers(0, common.CLASSES, options.examples).astype("int32")
  mean, std = tf.constant([0.4914, 0.4822, 0.4465]), tf.constant([0.247, 0.2435, 0.2616])

  def prepare(image, label):
    image = (tf.cast(image, tf.float32) / 255 - mean) / std
    if augmented:
      image = tf.image.resize_with_crop_or_pad(image, 40, 40)
      image = tf.image.random_flip_left_right(tf.image.random_crop(image, (32, 32, 3)))
    return image, label

  data = tf.data.Dataset.from_tensor_slices((images, labels))
  data = data.shuffle(options.examples).map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
  data = data.batch(options.batch, drop_remainder=True).prefetch(tf.data.AUTOTUNE)

  model.compile(
    keras.optimizers.SGD(common.LEARNING_RATE, common.MOMENTUM, nesterov=True),
    loss,
    metrics=["accuracy"],
    jit_compile=BACKEND == "jax" or bool(tf.config.list_physical_devices("GPU")),
  )

  def run(steps):
    # An epoch of fit() is one pass through the data that it gets.
    model.fit(data.take(steps), epochs=1, verbose=0)

  return run


def version(name):
  """Return the version of an installed package, or of its variant for CPUs."""
  try:
    return importlib.metadata.version(name)
  except importlib.metadata.PackageNotFoundError:
    return importlib.metadata.version(f"{name}-cpu")


def device():
  """Return the name of the device that Keras uses."""
  if BACKEND == "jax":
    import jax

    return jax.devices()[0].device_kind
  gpus = tf.config.list_physical_devices("GPU")
  return tf.config.experimental.get_device_details(gpus[0])["device_name"] if gpus else "cpu"


if __name__ == "__main__":
  main()
